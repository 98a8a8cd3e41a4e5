"""The config's blocks on ML Metadata and on Beam."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from privacy_pipeline.config.models.base import Section


class SqliteMetadata(Section):
    """ML Metadata in a SQLite file (default: `metadata.db` in the workspace)."""

    kind: Annotated[Literal["sqlite"], Field(description="Of the database.")] = "sqlite"
    path: Annotated[Path | None, Field(description="The file.")] = None


def _without_password(value: str) -> str:
    """Do not show the value, which may hold `user:password@host`."""
    if "@" in value or re.fullmatch(r"[^:\[]+:[^:]*", value):
        raise ValueError("holds more than one name; host, port and user have fields of their own, a password has none")
    return value


def _variable(value: str) -> str:
    """Do not show the value, which may be the password itself."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("names no environment variable: letters, digits and _; the password itself has no place here")
    return value


class ServerMetadata(Section):
    """ML Metadata in a MySQL or PostgreSQL server; the password comes from the environment."""

    kind: Annotated[Literal["mysql", "postgresql"], Field(description="Of the database.")]
    host: Annotated[str, AfterValidator(_without_password), Field(description="Name or address of the server.")]
    port: Annotated[int, Field(ge=1, le=65535, description="Of the server.")]
    database: Annotated[str, Field(description="Name of the database, which must exist.")]
    user: Annotated[str, AfterValidator(_without_password), Field(description="Who connects.")]
    password_env: Annotated[
        str, AfterValidator(_variable), Field(description="Environment variable that holds the password.")
    ]


class BeamSection(Section):
    """How Beam runs the data work. Without arguments: one in-memory worker in the node's own process."""

    args: Annotated[list[str], Field(description="Beam pipeline options, for example --runner=DataflowRunner.")] = []
