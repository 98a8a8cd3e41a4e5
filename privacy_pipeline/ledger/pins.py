"""Which ledger a folder of data, or a workspace, belongs to: a file that `budget register` leaves in both.

A budget is worth what its ledger is worth. Without a pin `--set ledger=...` would give registered data a fresh cap, and
so would a copy of the ledger that was taken before the budget was spent. The pin holds the key that began the ledger's
journal, and the newest record that was seen of it: another ledger, one whose key nobody accepted, one that was rolled
back and a copy that went on by itself are all found. Anyone who can write both folders can remove the pins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.files.atomic import write_whole
from privacy_pipeline.files.bounded import read_bounded
from privacy_pipeline.files.file_rights import make_folders, real
from privacy_pipeline.ledger.storage import schema

if TYPE_CHECKING:
    from privacy_pipeline.ledger.ledger import Ledger

FILE = "ledger_pin.json"
_LARGEST = 1 << 16  # bytes; folders above the data's may be other people's
_MOVES = "let `ledger` name the ledger that it was registered with; `privacy-pipeline budget move` moves one"


class Pin(BaseModel):
    """What is remembered of a ledger.

    Attributes:
        origin: public key that began its journal, hexadecimal.
        accepted: ids of keys that took over from a lost one, and were accepted here.
        seq: number of the newest record that was seen.
        hash: its hash.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: str
    accepted: tuple[str, ...] = ()
    seq: int
    hash: str


def places(*, data: Path | Sequence[Path], workspace: Path | None) -> list[Path]:
    """Return the folders in which a pin may lie: the workspace, and those of the data with all folders above them.

    Args:
        data: the folder of the data, or all folders that its files lie in (`data.files.folders_of`).
        workspace: the workspace, where there is one.
    """
    found = [] if workspace is None else [real(workspace)]
    for folder in [data] if isinstance(data, Path) else data:
        found += [real(folder), *real(folder).parents]
    return list(dict.fromkeys(found))


def pinned(folders: Iterable[Path]) -> dict[Path, Pin]:
    """Return the pins that lie in folders, by their files.

    Raises:
        BadInputError: one cannot be read, or is damaged.
    """
    found = {}
    for folder in dict.fromkeys(folders):
        file = folder / FILE
        try:
            found[file] = Pin.model_validate_json(read_bounded(file, most=_LARGEST))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValidationError) as error:
            raise BadInputError(
                f"{file}: {_short(error)}", fix="restore it from a copy; it names the ledger that counts"
            ) from error
    return found


def open_pinned(
    url: str, *, data: Path | Sequence[Path], workspace: Path | None, accept: Sequence[str] = ()
) -> Ledger | None:
    """Return the ledger at a URL, checked against the pins of a workspace and of the data.

    Args:
        url: SQLAlchemy URL of the ledger.
        data: folder of the data, or all folders that its files lie in.
        workspace: the workspace, where there is one.
        accept: ids of keys that took over from a lost one, and that are about to be accepted.

    Returns:
        None where there is no ledger, and no pin asks for one.

    Raises:
        BadInputError: the URL is not usable, or a pin is damaged.
        BudgetRefusedError: see `require`; or there is no ledger, and a pin asks for one.
        LedgerError: the ledger cannot be read.
    """
    from privacy_pipeline.ledger.ledger import Ledger

    schema.parse(url)
    folders = places(data=data, workspace=workspace)
    try:
        ledger = Ledger.open(url)
    except BadInputError:
        require_none(folders, url=url)
        return None
    require(ledger, folders, accept=accept)
    return ledger


def require(ledger: Ledger, folders: Sequence[Path], *, accept: Sequence[str] = ()) -> None:
    """Refuse a ledger that is not the one that the folders belong to.

    Raises:
        BadInputError: a pin is damaged.
        BudgetRefusedError: it is another ledger, an older state or a copy of it, or its key is not accepted.
        LedgerError: the ledger cannot be read, or its keys do not follow on each other.
    """
    pins = pinned(folders)
    if not pins:
        return
    lineage = ledger.lineage(at=[pin.seq for pin in pins.values()])
    for file, pin in pins.items():
        if lineage.origin != pin.origin:
            raise BudgetRefusedError(
                f"{file}: what lies here is registered with another ledger than {ledger.name}", fix=_MOVES
            )
        if lineage.hashes.get(pin.seq) != pin.hash:
            raise BudgetRefusedError(
                f"{file}: {ledger.name} does not hold record {pin.seq} of the journal as it was seen: it was rolled "
                "back, or is a copy that went on by itself",
                fix="restore the ledger that the runs here were charged to",
            )
        unknown = [key for key in lineage.taken_over if key not in (*pin.accepted, *accept)]
        if unknown:
            raise BudgetRefusedError(
                f"{file}: key {unknown[0]} took over {ledger.name} from a key that was declared lost, and nobody "
                "accepted it for what lies here",
                fix=f"if it is known to be right: privacy-pipeline budget pin CONFIG --accept-lost-key {unknown[0]}",
            )


def require_none(folders: Sequence[Path], *, url: str) -> None:
    """Refuse to go without a ledger where the folders belong to one.

    Raises:
        BudgetRefusedError: they do.
    """
    for file in pinned(folders):
        raise BudgetRefusedError(
            f"{file}: what lies here is registered with a ledger, and there is none at {url}", fix=_MOVES
        )


def note(ledger: Ledger, folders: Sequence[Path], *, accept: Sequence[str] = ()) -> list[Path]:
    """Write the ledger's newest record into pins; make them where there are none.

    Args:
        ledger: the ledger, which was checked against the pins that there are.
        folders: where to.
        accept: ids of keys that took over from a lost one.

    Returns:
        The folders that cannot be written.
    """
    lineage, known, failed = ledger.lineage(), pinned(folders), []
    for folder in folders:
        earlier = known.get(folder / FILE)
        accepted = (*(earlier.accepted if earlier else ()), *accept)
        pin = Pin(origin=lineage.origin, accepted=tuple(dict.fromkeys(accepted)), seq=lineage.seq, hash=lineage.hash)
        if earlier is not None and earlier.seq > pin.seq:
            continue  # somebody else noted a later record meanwhile
        if pin != earlier and not _write(folder / FILE, pin):
            failed.append(folder)
    return failed


def note_again(ledger: Ledger, *, data: Path | Sequence[Path], workspace: Path) -> None:
    """Bring the pins of data and of a workspace up to date; where there is none, none is made."""
    note(ledger, [file.parent for file in pinned(places(data=data, workspace=workspace))])


def leave(ledger: Ledger, *, data: Path, workspace: Path, tell: Callable[[str], None]) -> None:
    """Write the pins of data that was just registered, and report folders that cannot hold one.

    Args:
        ledger: the ledger, which was compared with the pins that there are.
        data: folder of the data.
        workspace: the workspace; it is made where there is none.
        tell: function that gets one sentence for each folder that cannot be written.
    """
    make_folders(workspace)
    for folder in note(ledger, [real(workspace), real(data)]):
        tell(not_left(folder))


def not_left(folder: Path) -> str:
    """Return what a person should know of a folder that cannot hold a pin."""
    return f"{folder} cannot be written: nothing there names the ledger that this data is registered with"


def _write(file: Path, pin: Pin) -> bool:
    content = (pin.model_dump_json(indent=2) + "\n").encode()
    try:
        readers = 0o644 if file.parent.stat().st_mode & 0o055 else 0o600  # who can read the data can read its pin
        write_whole(path=file, content=content, mode=readers)
    except OSError:
        return False
    return True


def _short(error: OSError | ValidationError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
