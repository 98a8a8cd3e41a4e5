"""Where the environments of an installed wheel lie, and which of them are whole..

    ~/.local/share/privacy_pipeline/environments/   ($XDG_DATA_HOME, or $PRIVACY_PIPELINE_ENVIRONMENTS)
        pipeline/     TFX, TensorFlow and the data of the demo
        encrypted/    TF-Encrypted

Each is made from a lock inside of the package, which pins every file by its hash. `set-up` in it holds the digest of
the lock and of the package's own files: another version of either makes the environment again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from importlib import metadata, resources
from pathlib import Path
from typing import Literal

from privacy_pipeline.text.typed import typed

Kind = Literal["pipeline", "encrypted"]
KINDS: tuple[Kind, ...] = ("pipeline", "encrypted")
VARIABLE = "PRIVACY_PIPELINE_ENVIRONMENTS"
PACKAGE = "privacy-pipeline"
_STAMP = "set-up"
_MARK = {"pipeline": "tfx", "encrypted": "tf_encrypted"}


def root() -> Path:
    """Return the folder of all environments."""
    stated = os.environ.get(VARIABLE)
    if stated:
        return Path(stated).absolute()
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base, "privacy_pipeline", "environments").absolute()


def python(kind: Kind) -> Path | None:
    """Return the interpreter of an environment that is whole and of this version; None where there is none."""
    folder = root() / kind
    try:
        stamp = (folder / _STAMP).read_text()
    except OSError:
        return None
    return folder / "bin" / "python" if stamp == digest(kind) else None


def stamp_of(kind: Kind) -> Path:
    """Return the file whose presence shows that an environment is complete."""
    return root() / kind / _STAMP


def lock(name: str) -> str:
    """Return a lock: requirements with the hashes of their files.

    Args:
        name: a kind, or `uv`.
    """
    return (resources.files("privacy_pipeline.environments") / "locks" / f"{name}.txt").read_text()


def digest(kind: Kind) -> str:
    """Return what an environment of this version is made of: the lock, and the package's own files."""
    own = metadata.distribution(PACKAGE)
    return hashlib.sha256("\0".join((lock(kind), own.version, own.read_text("RECORD") or "")).encode()).hexdigest()


def is_checkout() -> bool:
    """Whether this is a checkout, whose environments `make` makes, instead of an installed wheel."""
    return (Path(__file__).resolve().parents[2] / "pyproject.toml").exists()


def how_to_set_up(kind: Kind) -> str:
    """Return the command that makes an environment."""
    if is_checkout():
        return "make setup" if kind == "pipeline" else "make setup-encrypted"
    return typed("setup", kind)


def is_here(kind: Kind) -> bool:
    """Whether this interpreter has what the environment is for."""
    return importlib.util.find_spec(_MARK[kind]) is not None
