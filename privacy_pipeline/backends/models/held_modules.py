"""Imports a user's modules from the sources that were read and hashed, not from what the files hold by then."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from privacy_pipeline.backends.models.code_hash import Source, sources_of


def import_held(dotted: str, *, root: Path) -> ModuleType:
    """Return a module; it and the modules that it imports are those of `sources_of`.

    Nothing else that lies in their folders can be imported, neither by them nor by an installed package that tries to.

    Args:
        dotted: module name as the config gives it.
        root: folder that the command runs in.

    Raises:
        BadInputError: as `sources_of`.
        ImportError, SyntaxError: it cannot be imported.
    """
    sources = sources_of(dotted, root=root)
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    sys.meta_path.insert(0, _Finder(sources))
    return importlib.import_module(dotted)


class _Finder(MetaPathFinder):
    """Finds the modules of some sources, and no others."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module of the sources comes from; None for any other."""
        source = self._sources.get(fullname)
        if source is None:
            return self._namespace(fullname)
        folders = [str(source.path.parent)] if source.path.name == "__init__.py" else None
        loader = _Loader(fullname, source)
        return importlib.util.spec_from_file_location(
            fullname, source.path, loader=loader, submodule_search_locations=folders
        )

    def _namespace(self, fullname: str) -> ModuleSpec | None:
        """Return a package that has no file of its own, and a source below it."""
        below = [source for name, source in self._sources.items() if name.startswith(f"{fullname}.")]
        if not below:
            return None
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [str(below[0].folder.joinpath(*fullname.split(".")))]
        return spec


class _Loader(SourceFileLoader):
    """Compiles the bytes that were read; what Python compiled of the file before is not looked at."""

    def __init__(self, fullname: str, source: Source) -> None:
        super().__init__(fullname, str(source.path))
        self._content = source.content

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the source."""
        code: CodeType = self.source_to_code(self._content, self.path)
        return code
