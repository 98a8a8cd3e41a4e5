"""The newest record that this host has seen committed: a small signed file beside the key.

A database that is put back to an earlier state, by mistake or to spend twice, does not hold that record any more. The
file is written after each commit and compared with the journal before each write, so a crash between the two can leave
it behind but never ahead. Each host keeps its own file. A person who can remove it, or sign with the key, can get
around this check; receipts that are kept elsewhere still reveal a rollback.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError

from privacy_pipeline.files.atomic import sweep, write_bytes_atomically, write_new
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.files.file_rights import refuse_if_others_may_change
from privacy_pipeline.ledger.storage import keys, schema
from privacy_pipeline.ledger.storage.keys import PublicKey
from privacy_pipeline.text.typed import quoted

if TYPE_CHECKING:
    from privacy_pipeline.ledger.storage.keys import SigningKey

ENVIRONMENT = "PRIVACY_PIPELINE_LEDGER_SEEN"
_FORMAT = "privacy-pipeline ledger high water 1"
NEWEST_FIX = (
    "restore the newest copy of the ledger (budget restore FILE); only if this one is known to be whole, move the file "
    "away"
)
_SIZE = 512  # one sector: what a crash leaves is the old content or the new one


class Mark(BaseModel):
    """What is known of a ledger.

    Attributes:
        seq: number of the newest record that was committed from this host.
        hash: its hash.
        key_id: key that signed this.
        signature: hexadecimal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seq: int
    hash: str
    key_id: str
    signature: str = ""

    @property
    def message(self) -> bytes:
        """What is signed."""
        return hashlib.sha256(json.dumps([_FORMAT, self.seq, self.hash, self.key_id]).encode()).digest()


def mark_file(connection: sa.Connection, url: sa.URL) -> Path:
    """Return where the mark of a ledger is; copies of a ledger, which share its first record, have one.

    It is in the folder that `ENVIRONMENT` names, else beside the key.
    """
    first = connection.scalar(_FIRST)
    if first is None:
        raise schema.LedgerError("the journal has no first record")
    named = os.environ.get(ENVIRONMENT)
    return (Path(named) if named else keys.key_file(url).parent) / f"ledger_seen_{str(first)[:16]}.json"


def read(file: Path) -> Mark | None:
    """Return the mark in a file; None where there is none yet.

    Raises:
        LedgerError: it is damaged.
        BadInputError: others may change it.
    """
    refuse_if_others_may_change(file)
    try:
        with file.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            return Mark.model_validate_json(stream.read(_SIZE + 1))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise _damaged(file, str(getattr(error, "strerror", "") or "it is not a mark of a ledger")) from error


def problem(connection: sa.Connection, mark: Mark, *, file: Path, present: PublicKey) -> str:
    """Return why the ledger is not the one that this host has seen, or is an older state of it; "" if it is neither.

    Args:
        connection: a transaction, begun after the mark was read: another process may be writing.
        mark: the mark.
        file: its file, for the message.
        present: the key that signs now.
    """
    if not _is_signed(mark, connection, present):
        return f"{file} is not signed by a key of this ledger"
    found = connection.scalar(_HASH, {"seq": mark.seq})
    if found != mark.hash:
        return f"the ledger was put back: this host has seen record {mark.seq} committed ({file}), and the journal " + (
            "does not hold it" if found is None else "holds another one"
        )
    return ""


def seen(engine: sa.Engine) -> tuple[Path, Mark] | None:
    """Return the newest record that this host has seen, and its file; None where it keeps none.

    Read before the ledger is: of one that is written meanwhile, the mark may be ahead of what was read.

    Raises:
        LedgerError: the ledger cannot be read, or the mark is damaged.
        BadInputError: others may change the mark.
    """
    named = os.environ.get(keys.ENVIRONMENT) or os.environ.get(ENVIRONMENT)
    if schema.sqlite_file(engine.url) is None and not named:
        return None
    with schema.transaction(engine, write=False, as_stored=True) as connection:
        if connection.scalar(_FIRST) is None:
            return None
        file = mark_file(connection, engine.url)
    mark = read(file)
    return None if mark is None else (file, mark)


def put_back(engine: sa.Engine, current: Callable[[sa.Connection], PublicKey]) -> str:
    """Return why the ledger is older than this host has seen it, or another one; "" if neither, or nothing was seen.

    Args:
        engine: of the ledger.
        current: gives the key that signs now.

    Raises:
        LedgerError, BadInputError: see `seen`.
    """
    known = seen(engine)
    if known is None:
        return ""
    file, mark = known
    with schema.transaction(engine, write=False) as connection:
        return problem(connection, mark, file=file, present=current(connection))


def require(connection: sa.Connection, url: sa.URL, *, present: PublicKey) -> Path:
    """Refuse to write to a ledger that is older than this host has seen it.

    Returns:
        The mark's file, for `advance`.

    Raises:
        LedgerError: it is, or the mark is damaged or cannot be written.
        BadInputError: others may change the mark.
    """
    file = mark_file(connection, url)
    refuse_if_others_may_change(file, own=True)
    mark = read(file)
    if mark is not None and (found := problem(connection, mark, file=file, present=present)):
        raise schema.LedgerError(
            f"{found}; nothing was written",
            fix=NEWEST_FIX,
        )
    require_writable(file, is_there=mark is not None)
    return file


def require_writable(file: Path, *, is_there: bool) -> None:
    """Refuse to commit what could not be noted.

    Raises:
        LedgerError: the file cannot be written.
    """
    if (file.is_symlink() and not is_there) or not os.access(file if is_there else file.parent, os.W_OK):
        raise schema.LedgerError(
            f"{file} cannot be written, and this host could not record how far it has seen the ledger; nothing was "
            "written",
            fix=f"make its folder writable, or export {ENVIRONMENT}=FOLDER (that this user alone can write)",
        )


def advance(file: Path, *, seq: int, digest: str, key: SigningKey) -> None:
    """Note a record that is committed, unless a later one is noted.

    Args:
        file: the mark's file.
        seq: the record's number.
        digest: its hash.
        key: signs.

    Raises:
        LedgerError: it cannot be written. What was committed stays.
    """
    content = _signed(seq, digest, key)
    try:
        if _made(file, content):
            return
        handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            before = os.pread(handle, _SIZE, 0)
            if Mark.model_validate_json(before).seq <= seq:
                os.pwrite(handle, content, 0)
        finally:
            os.close(handle)
    except (OSError, ValidationError) as error:
        raise _damaged(file, str(getattr(error, "strerror", "") or "it is not a mark of a ledger")) from error


def replace(file: Path, *, seq: int, digest: str, key: SigningKey) -> None:
    """Note the newest record of a ledger that was restored, whatever was noted before.

    Args:
        file, seq, digest, key: see `advance`.

    Raises:
        BadInputError: it cannot be written.
    """
    write_bytes_atomically(path=file, content=_signed(seq, digest, key))


def _signed(seq: int, digest: str, key: SigningKey) -> bytes:
    unsigned = Mark(seq=seq, hash=digest, key_id=key.public.id)
    signed = unsigned.model_copy(update={"signature": key.sign(unsigned.message)})
    return signed.model_dump_json().encode().ljust(_SIZE)


def _made(file: Path, content: bytes) -> bool:
    """Make the file, whole or not at all; return False where there is one."""
    sweep(file)
    return not file.exists() and write_new(path=file, content=content)


def _is_signed(mark: Mark, connection: sa.Connection, present: PublicKey) -> bool:
    """Return whether the present key signed it, or one that the ledger had before."""
    if mark.key_id == present.id:
        return present.verifies(mark.signature, mark.message)
    named = [PublicKey(str(json_value(body)["public_key"])) for (body,) in connection.execute(_NAMED)]
    return any(key.id == mark.key_id and key.verifies(mark.signature, mark.message) for key in named)


def _damaged(file: Path, why: str) -> schema.LedgerError:
    return schema.LedgerError(
        f"{file}: {why}; it records how far this host has seen the ledger",
        fix="budget verify --receipt RECORD checks whether the ledger is the newest; if so: "
        f"mv {quoted(file)} {quoted(file)}.old",
    )


_TABLE = schema.journal
_FIRST = sa.select(_TABLE.c.hash).where(_TABLE.c.seq == 1)
_HASH = sa.select(_TABLE.c.hash).where(_TABLE.c.seq == sa.bindparam("seq"))
_NAMED = sa.select(_TABLE.c.body).where(_TABLE.c.kind.in_(("genesis", "rotate_key", "key_lost"))).order_by(_TABLE.c.seq)
