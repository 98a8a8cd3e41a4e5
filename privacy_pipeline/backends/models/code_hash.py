"""Hashes of a user's code that shapes a model, for the cache key and the privacy record.

TFX's cache does not see the source of importable functions. Sources are read and parsed here, never imported.
"""

from __future__ import annotations

import ast
import importlib.machinery
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.file_rights import real
from privacy_pipeline.files.read_once import once
from privacy_pipeline.processes.installed import digest_of as _digest
from privacy_pipeline.processes.installed import framework_sources, hash_of_framework

__all__ = ["Source", "framework_sources", "hash_of_framework", "hash_of_user_code", "sources_of"]

_OURS = ("privacy_pipeline", "federated")
_NOT_THE_USERS = ("site-packages", "dist-packages")


def hash_of_user_code(dotted: str, *, root: Path) -> str:
    """Return the SHA-256 over the sources of a module (`sources_of`); where their folders lie does not count.

    Args:
        dotted: module name as the config gives it.
        root: folder that the command runs in.

    Returns:
        64 hexadecimal digits.

    Raises:
        BadInputError: as `sources_of`.
    """
    return _digest({name: source.content for name, source in sources_of(dotted, root=root).items()})


@dataclass(frozen=True)
class Source:
    """A source file of a user's.

    Attributes:
        folder: where its top-level package or module lies.
        path: the file.
        content: its bytes; they count, so that a changed comment changes the hash.
    """

    folder: Path
    path: Path
    content: bytes


def sources_of(dotted: str, *, root: Path) -> dict[str, Source]:
    """Return a module and all it imports, directly or not, from the user's own folders, by dotted name; read once a
    command.

    The user's own folders are `root` and the folder that the module's top-level package lies in.

    Args:
        dotted: module name as the config gives it.
        root: folder that the command runs in.

    Raises:
        BadInputError: the module has no source file, or one of the sources does not parse.
    """
    return once(("sources", dotted, real(root)), lambda: _read_sources(dotted, real(root)))


def _read_sources(dotted: str, root: Path) -> dict[str, Source]:
    folders = _folders(dotted, root)
    sources: dict[str, Source] = {}
    waiting = [dotted]
    while waiting:
        name = waiting.pop()
        found = _source(name, folders)
        if name in sources or found is None:
            continue
        _refuse_shadow(name, found)
        sources[name] = found
        is_package = found.path.name == "__init__.py"
        waiting += _parents(name)
        waiting += _imports(name, found.content, is_package=is_package)
    if dotted not in sources:
        raise BadInputError(
            f"model: no source file of module '{dotted}' was found",
            fix="use `tabular`, or a module that is importable from the folder the command runs in",
        )
    return sources


def _folders(dotted: str, root: Path) -> list[Path]:
    """Return where the user's modules are looked for: `root`, and the folder of an installed or PYTHONPATH module."""
    folders = [root]
    spec = importlib.machinery.PathFinder.find_spec(dotted.partition(".")[0], [str(root), *sys.path])
    if spec is not None and spec.origin is not None:
        origin = real(Path(spec.origin))
        base = origin.parents[1] if origin.name == "__init__.py" else origin.parent
        if not set(_NOT_THE_USERS) & set(base.parts):
            folders.append(base)
    return folders


def _source(name: str, folders: list[Path]) -> Source | None:
    relative = Path(*name.split("."))
    for folder in folders:
        for path in (folder / relative / "__init__.py", folder / relative.with_suffix(".py")):
            if path.is_file() and not set(_NOT_THE_USERS) & set(path.parts):
                return Source(folder, path, path.read_bytes())
    return None


def _refuse_shadow(name: str, source: Source) -> None:
    """Refuse a module that would be imported, or not, in the place of an installed one of its name."""
    top = name.partition(".")[0]
    installed = [path for path in _installed() if not source.path.is_relative_to(path)]
    if top in _OURS or top in sys.stdlib_module_names or _is_in(top, installed):
        raise BadInputError(
            f"model: {source.path} has the name of an installed module, {top!r}, and would take its place",
            fix="give it another name",
        )


def _installed() -> list[str]:
    paths = sysconfig.get_paths()
    return [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]


def _is_in(top: str, folders: list[str]) -> bool:
    spec = importlib.machinery.PathFinder.find_spec(top, folders)
    return spec is not None and spec.origin is not None  # a folder without a module is nobody's


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _imports(name: str, content: bytes, *, is_package: bool) -> Iterator[str]:
    """Yield every dotted name that the source may import; names that are not the user's modules are dropped later."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        raise BadInputError(f"model: module '{name}' does not parse: {error}", fix="correct the module") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(name, node, is_package=is_package)
            if base:
                yield base
            # `from a import b` imports module a.b where there is one.
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names if alias.name != "*")


def _absolute(name: str, node: ast.ImportFrom, *, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    package = name.split(".") if is_package else name.split(".")[:-1]
    kept = package[: len(package) - (node.level - 1)]
    return ".".join([*kept, node.module] if node.module else kept)
