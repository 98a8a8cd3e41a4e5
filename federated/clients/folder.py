"""A folder of arrays that is either whole or absent, with a checksum of each file."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.files.bounded_arrays import open_array

Array = NDArray[Any]
META_FILE = "meta.json"
_FORMAT = "federated-client-store/1"
_PART = ".part"
_PIECE = 16 * 2**20  # bytes read at a time


def write_arrays(folder: Path, arrays: Mapping[str, Array], *, more: Mapping[str, Any]) -> None:
    """Write one .npy file for each array and `meta.json`, into a folder beside, which is then renamed.

    Args:
        folder: where to; must not exist.
        arrays: name -> array; a name becomes a file name.
        more: JSON values that are kept with them.

    Raises:
        BadInputError: the folder exists, a name is not a file name, or the disk refuses.
    """
    for name in arrays:
        if not re.fullmatch(r"[\w.\- ]{1,100}", name):
            raise BadInputError(
                f"feature name {name!r} is not a file name", fix="use letters, digits, '_', '-' and '.'"
            )
    if folder.exists():
        raise BadInputError(f"{folder} exists already", fix="choose another folder or remove it")
    temporary, held = None, None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=_PART, dir=folder.parent))
        held = os.open(temporary, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        files = {name: _write_array(temporary / f"{name}.npy", array) for name, array in arrays.items()}
        content = {"format": _FORMAT, "files": files, **more}
        sealed = {**content, "sha256": _seal(content)}
        write_atomically(path=temporary / META_FILE, text=json.dumps(sealed, indent=1) + "\n")
        os.rename(temporary, folder)
    except OSError as error:
        raise BadInputError(
            f"{folder}: the client store cannot be written ({error.strerror})", fix="free space and rights"
        ) from None
    finally:
        if held is not None:
            os.close(held)
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed writers of a folder left beside it; one that lives holds a lock on its own."""
    left = re.compile(rf"\.{re.escape(folder.name)}\.[a-z0-9_]{{8}}{re.escape(_PART)}")
    for path in folder.parent.iterdir():
        if not left.fullmatch(path.name):
            continue
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
        except BlockingIOError:
            continue
        finally:
            os.close(held)


def open_arrays(folder: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of a folder, memory-mapped and read-only, and what was kept with them.

    The checksum of `meta.json` and the size of each file are compared; `verify_arrays` reads the files too.

    Raises:
        BadInputError: the folder holds no store, or a file of it is missing or has another size.
    """
    meta = _meta(folder)
    arrays: dict[str, Array] = {}
    for name, file in meta.pop("files").items():
        path = folder / f"{name}.npy"
        size = path.stat().st_size if path.is_file() else -1
        if size != file["bytes"]:
            found = "is missing" if size < 0 else f"has {size:,} bytes, not {file['bytes']:,}"
            raise BadInputError(f"{path} {found}: the client store is damaged", fix="write the store again")
        arrays[name] = open_array(path, fix="write the store again")
    return arrays, meta


def verify_arrays(folder: Path) -> None:
    """Compare each file with its checksum.

    Raises:
        BadInputError: as `open_arrays`, or a file was changed.
    """
    open_arrays(folder)
    for name, file in _meta(folder)["files"].items():
        if _digest(folder / f"{name}.npy") != file["sha256"]:
            raise BadInputError(f"{folder / name}.npy was changed after it was written", fix="write the store again")


def _meta(folder: Path) -> dict[str, Any]:
    path = folder / META_FILE
    try:
        sealed = json_value(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{folder} holds no client store ({META_FILE}: {error.strerror})") from None
    except ValueError:
        sealed = None
    if not isinstance(sealed, dict) or sealed.get("format") != _FORMAT:
        raise BadInputError(f"{path} is not a '{_FORMAT}'", fix="write the store again")
    if sealed.pop("sha256", None) != _seal(sealed):
        raise BadInputError(f"{path} does not match its own checksum: it was edited or damaged")
    return sealed


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write_array(path: Path, array: Array) -> dict[str, Any]:
    with path.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
    return {"sha256": _digest(path), "bytes": path.stat().st_size}


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
