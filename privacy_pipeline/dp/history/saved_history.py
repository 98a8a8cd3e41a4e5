"""Put the text of a privacy history into a saved model, in every format of Keras, and read it. No TensorFlow."""

from __future__ import annotations

import glob
import hashlib
import json
import zipfile
from pathlib import Path

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.files.bounded import json_value, read_bounded

_NAME = "privacy_history"
_MEMBER = f"{_NAME}.json"
_FILES = "files"  # digest of the weights' files
_LARGEST = 16 << 20  # bytes of a history
_HDF5 = b"\x89HDF\r\n\x1a\n"


def write(path: Path, text: str) -> None:
    """Write a history: into the saved model or weights at `path`, where there are some, or as a file of its own.

    A `.keras` file gets a member `privacy_history.json`, an HDF5 file a data set `privacy_history`, a SavedModel a file
    in `assets.extra`, and a checkpoint of TensorFlow a file beside it. Keras and TensorFlow pass over all of these.

    Args:
        path: a file, the folder of a SavedModel, or the prefix of a checkpoint.
        text: the history, JSON.

    Raises:
        BadInputError: the file cannot be written, or is a `.keras` file that has a history already.
    """
    try:
        if _is_saved_model(path):
            write_atomically(path=path / "assets.extra" / _MEMBER, text=_bound(text, path / "variables" / "variables"))
        elif _is_checkpoint(path):
            write_atomically(path=_beside(path), text=_bound(text, path))
        elif _starts_with(path, _HDF5):
            _into_hdf5(path, text)
        elif path.is_file() and zipfile.is_zipfile(path):
            _into_keras(path, text)
        else:
            write_atomically(path=path, text=text)
    except OSError as error:
        raise BadInputError(f"{path}: its privacy history cannot be written ({error})") from None


def read(path: Path) -> str | None:
    """Return what `write` wrote; None where a saved model or weights hold no history.

    Raises:
        BadInputError: the file cannot be read.
    """
    try:
        if _is_saved_model(path):
            return _of(path / "assets.extra" / _MEMBER, path / "variables" / "variables")
        if _is_checkpoint(path):
            return _of(_beside(path), path)
        if _starts_with(path, _HDF5):
            return _of_hdf5(path)
        if path.is_file() and zipfile.is_zipfile(path):
            return _of_keras(path)
        return read_bounded(path, most=_LARGEST).decode()
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
        raise BadInputError(f"{path}: it cannot be read as a privacy history") from None


def _is_saved_model(path: Path) -> bool:
    return (path / "saved_model.pb").is_file()


def _is_checkpoint(path: Path) -> bool:
    return path.with_name(f"{path.name}.index").is_file()


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{_MEMBER}")


def _bound(text: str, prefix: Path) -> str:
    """Return a history with the digest of the weights' files: Keras rewrites them, but not a file beside them."""
    return json.dumps({**json_value(text), _FILES: _digest(prefix)}, indent=1) + "\n"


def _of(path: Path, prefix: Path) -> str | None:
    """Return the history in a file; None where there is none.

    Raises:
        BadInputError: the weights were written since.
    """
    if not path.is_file():
        return None
    text = read_bounded(path, most=_LARGEST).decode()
    try:
        held = json_value(text).get(_FILES)
    except (ValueError, AttributeError):
        return text  # the caller reports what is wrong with it
    if held is not None and held != _digest(prefix):
        raise BadInputError(
            f"{path}: the weights beside it were saved again without their privacy history",
            fix="save with `PrivateModel.save` or `save_weights`; or remove it, and give what is known as `history`",
        )
    return text


def _digest(prefix: Path) -> str:
    """Return the SHA-256 over the files of a checkpoint of TensorFlow."""
    digest = hashlib.sha256()
    for file in sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}.*")):
        if file.name.endswith(".index") or ".data-" in file.name:
            digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _starts_with(path: Path, magic: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _into_keras(path: Path, text: str) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        if _MEMBER in archive.namelist():
            raise BadInputError(
                f"{path}: it holds a privacy history already", fix="save the model again, then its history"
            )
        archive.writestr(_MEMBER, text)


def _into_hdf5(path: Path, text: str) -> None:
    import h5py

    with h5py.File(path, "r+") as file:
        if _NAME in file:
            del file[_NAME]
        file.create_dataset(_NAME, data=text, dtype=h5py.string_dtype())


def _of_hdf5(path: Path) -> str | None:
    import h5py

    with h5py.File(path, "r") as file:
        if _NAME not in file:
            return None
        found = file[_NAME]
        if not isinstance(found, h5py.Dataset) or found.shape != () or h5py.check_string_dtype(found.dtype) is None:
            raise ValueError
        return bytes(found[()]).decode()


def _of_keras(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        if _MEMBER not in archive.namelist():
            return None
        with archive.open(_MEMBER) as stream:
            content = stream.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError
    return content.decode()
