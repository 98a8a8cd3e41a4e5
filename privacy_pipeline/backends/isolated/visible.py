"""What of a user's own the build of a model sees: the sources of the module, and files that the config calls public.

Both are read here and handed over as bytes, so that what was looked at is what is seen. A file that is the dataset's,
or lies in the folders of data, workspace or ledger, is refused by its name, whatever link leads to it; so is a public
file that lies where other data is registered. No TensorFlow.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url

from privacy_pipeline.backends.isolated import environment
from privacy_pipeline.backends.models.code_hash import sources_of
from privacy_pipeline.config.models.model import ModelSection
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.file_rights import real
from privacy_pipeline.files.read_once import once
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.storage.schema import sqlite_file

MOST_BYTES = 256 << 20  # of all files together
_WORKSPACE = ("runs", "pipelines", "pushed")
_PUBLIC = "name public files that lie apart from data, workspace and ledger"


@dataclass(frozen=True, kw_only=True)
class Visible:
    """What is handed to the build.

    Attributes:
        files: contents by absolute path, of sources and of public files.
        folders: where the module and what it imports lie.
    """

    files: dict[Path, bytes]
    folders: tuple[Path, ...]


def visible(section: ModelSection, private: Private) -> Visible:
    """Read what the build of a model may see.

    Args:
        section: names the module and the public files.
        private: what it must not see.

    Raises:
        BadInputError: a file is missing, too large or the dataset's.
    """
    private.require_hidden([*environment.shown(), *environment.packages().shown, *environment.framework()])
    files, folders = {}, dict[Path, None]()
    for source in sources_of(section.use, root=Path.cwd()).values():
        private.refuse(source.path, source.content, what="model.use: the source")
        files[source.path.absolute()] = source.content
        folders[source.folder.absolute()] = None
    files |= _read(section, private)
    return Visible(files=files, folders=tuple(folders))


def hash_of_files(config: PipelineConfig) -> str:
    """Return the SHA-256 over names and contents of the files of `model.files`, for cache keys; empty without files.

    Raises:
        BadInputError: as `visible`.
    """
    if not config.model.files:
        return ""
    total = hashlib.sha256()
    for path, content in sorted(_read(config.model, Private.of(config)).items()):
        total.update(f"{os.path.relpath(path)}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def _read(section: ModelSection, private: Private) -> dict[Path, bytes]:
    """Return the public files, read once a command."""
    return once(("model.files", *section.files, Path.cwd()), lambda: _read_files(section, private))


def _read_files(section: ModelSection, private: Private) -> dict[Path, bytes]:
    files, left = {}, MOST_BYTES
    for path in section.files:
        if not path.is_file():
            raise BadInputError(f"model.files: {path} is not a file", fix=_PUBLIC)
        with path.open("rb") as stream:
            content = stream.read(left + 1)
        left -= len(content)
        if left < 0:
            raise BadInputError(f"model.files: more than {MOST_BYTES >> 20} MiB", fix="name smaller files")
        private.refuse(path, content, what="model.files:")
        private.refuse_registered(path)
        files[Path(os.path.normpath(path.absolute()))] = content
    return files


class Private:
    """The files that no build may see.

    Args:
        data: the dataset's folder.
        workspace: where runs are kept.
        ledger: URL of the ledger.
    """

    def __init__(self, *, data: Path, workspace: Path, ledger: str) -> None:
        self._workspace = root = real(workspace)
        # A workspace that is the working folder itself has the modules in it.
        parts = [root / name for name in _WORKSPACE] if root == real(Path.cwd()) else [root]
        self._folders = [("the dataset's folder", real(data)), *(("the workspace", part) for part in parts)]
        self._folders += _ledger(ledger)

    @classmethod
    def of(cls, config: PipelineConfig) -> Private:
        """Return the private folders of a config."""
        return cls(data=config.dataset.path, workspace=config.workspace, ledger=config.ledger)

    def require_hidden(self, shown: Sequence[str]) -> None:
        """Refuse private folders that lie in what every build sees: Python, packages and the framework.

        Raises:
            BadInputError: one does.
        """
        for name, folder in self._folders:
            within = next((one for one in shown if folder.is_relative_to(real(Path(one)))), None)
            if within is not None:
                raise BadInputError(
                    f"model: {name} lies in {within}, which the build of a model sees", fix=f"move {name} elsewhere"
                )

    def refuse_registered(self, path: Path) -> None:
        """Refuse a file from a folder that a ledger's pin marks: it is registered data, even if of another dataset.

        Raises:
            BadInputError: it is.
        """
        for folder in real(path).parents:
            if folder != self._workspace and (folder / pins.FILE).exists():
                raise BadInputError(f"model.files: {path} lies in {folder}, which is registered data", fix=_PUBLIC)

    def refuse(self, path: Path, content: bytes, *, what: str) -> None:
        """Refuse a file that lies in one of the folders, is linked to one that does, or is a copy of one.

        Raises:
            BadInputError: it is, or does.
        """
        found = real(path)
        for name, folder in self._folders:
            if found.is_relative_to(folder):
                raise BadInputError(
                    f"{what} {path} lies in {name}: a model is built without access to data", fix=_PUBLIC
                )
        stat = found.stat()
        for name, other in self._files():
            theirs = other.stat()
            if os.path.samestat(stat, theirs):
                raise BadInputError(f"{what} {path} is a link to {other}, in {name}", fix=_PUBLIC)
            if theirs.st_size == len(content) > 0 and other.read_bytes() == content:
                raise BadInputError(f"{what} {path} has the content of {other}, in {name}", fix=_PUBLIC)

    def _files(self) -> Iterator[tuple[str, Path]]:
        for name, folder in self._folders:
            if folder.is_file():
                yield name, folder
            for path in _walked(folder, set()):
                yield name, path


def _walked(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield all files below a folder, behind links too."""
    if not folder.is_dir() or real(folder) in seen:
        return
    seen.add(real(folder))
    for path in folder.iterdir():
        if path.is_dir():
            yield from _walked(path, seen)
        elif path.is_file():
            yield path


def _ledger(url: str) -> list[tuple[str, Path]]:
    """Return the folder of a ledger in a file: its keys lie there too; none where it is in a server."""
    file = sqlite_file(make_url(url))
    if file is None:
        return []
    path, folder = real(file), real(file.parent)
    # A ledger beside the config would make every module lie in its folder.
    return [("the ledger", path if folder == real(Path.cwd()) else folder)]
