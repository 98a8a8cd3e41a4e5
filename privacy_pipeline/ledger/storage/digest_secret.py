"""The secret of a ledger that covers digests of its data: of units, of rows, and of whole files where they leave.

It is a file of mode 0600 beside the signing key, and is handed to further clients of a PostgreSQL ledger as that key
is: their digests, and so their caches, have to be equal. The ledger's table of settings holds its id, so that no client
makes another one. It stays when the signing key is rotated.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from privacy_pipeline.covered_digests import NOT_HERE, covered, id_of, make_secret, new_secret, read_secret
from privacy_pipeline.files.atomic import sweep
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.ledger.storage import keys, schema
from privacy_pipeline.ledger.storage.journal import BIND, REGISTER
from privacy_pipeline.text.typed import quoted

_FILE = "ledger_units.key"
_SETTING = "digest_secret"
_COPY = "copy it from where the ledger was first used, or from a backup, beside the signing key (chmod 600)"


def secret_file(url: sa.URL) -> Path:
    """Return where the secret of a ledger is: beside its signing key."""
    return keys.key_file(url).with_name(_FILE)


def ledger_secret(engine: sa.Engine, *, first: bytes | None = None) -> bytes:
    """Return the secret of a ledger, made with its first use.

    Args:
        engine: of the ledger.
        first: what it is to be where there is none yet; a new one by default.

    Raises:
        LedgerError: it cannot be read or written, is damaged or readable by others, or is not the one under which this
            ledger's digests were made.
    """
    path = secret_file(engine.url)
    with schema.transaction(engine, write=False) as connection:
        noted = _noted(connection)
        known = {noted} if noted else _registered(connection)
    try:
        if not path.exists():
            if known:
                raise schema.LedgerError(f"{path} is missing: this ledger's digests are made under it", fix=_COPY)
            make_secret(path, first or new_secret())
        sweep(path)
        secret = read_secret(path)
    except OSError as error:
        raise schema.LedgerError(f"{path}: {error.strerror or error}", fix="make its folder writable") from error
    except ValueError as error:
        raise schema.LedgerError(
            f"{path}: {error}", fix=f"chmod 600 {quoted(path)}; if it is damaged, {_COPY}"
        ) from error
    _require_known(known or {id_of(secret)}, secret, path)
    if noted is None and len(known) < 2:
        _require_known({_note(engine, id_of(secret))}, secret, path)
    return secret


def covering(url: sa.URL) -> Callable[[str], str]:
    """Return what covers a ledger's digests for anyone who reads them. Make no secret.

    Returns:
        A function that gives `NOT_HERE` for every plain digest where this host has no secret that can be read.
    """
    try:
        secret = read_secret(secret_file(url))
    except (OSError, ValueError, schema.LedgerError):
        return lambda digest: NOT_HERE
    return lambda digest: covered(digest, secret)


def _noted(connection: sa.Connection) -> str | None:
    """Return the id of the secret, as the ledger's settings have it."""
    table = schema.meta
    return connection.scalar(sa.select(table.c.value).where(table.c.key == _SETTING))


def _registered(connection: sa.Connection) -> set[str]:
    """Return the ids of the secrets under which units and rows were registered before the settings had one."""
    table = schema.journal
    bodies = map(json_value, connection.scalars(sa.select(table.c.body).where(table.c.kind.in_((REGISTER, BIND)))))
    parts = [part for body in bodies for part in (body.get("digests"), body.get("units")) if part is not None]
    return {str(part["key_id"]) for part in parts}


def _note(engine: sa.Engine, secret_id: str) -> str:
    """Write down a secret's id, unless another client was faster; return the id that is there now."""
    with schema.transaction(engine, write=True) as connection:
        noted = _noted(connection)
        if noted is None:
            connection.execute(schema.meta.insert().values(key=_SETTING, value=secret_id))
        return noted or secret_id


def _require_known(known: set[str], secret: bytes, path: Path) -> None:
    if id_of(secret) not in known:
        raise schema.LedgerError(
            f"{path} holds secret {id_of(secret)}, but this ledger's digests are made under {', '.join(sorted(known))}",
            fix=_COPY,
        )
