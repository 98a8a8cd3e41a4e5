"""A config that a program gives as a mapping, under the same rules as a YAML file: errors name the key, and no line."""

from __future__ import annotations

import os
from collections.abc import Mapping

from privacy_pipeline.config.source import AS_KEY, Document, KeyPath, Origin, refuse_secret
from privacy_pipeline.config.yaml_text import UnfitError, fit_text, require_few, require_narrow, require_shallow
from privacy_pipeline.errors import BadInputError

NAME = "config"  # in the place of a file's name


def document_of(given: Mapping[str, object]) -> Document:
    """Return a copy of a mapping as a document.

    Args:
        given: what a YAML file would hold; paths may be `Path` objects, and lists tuples.

    Raises:
        BadInputError: a value is not one that a config may hold, or is a password; names its key.
    """
    copied = _Copied()
    data = copied.mapping(given, ())
    return Document(name=NAME, data=data, origins=copied.origins)


class _Copied:
    """Copies values to plain ones, and notes their paths."""

    def __init__(self) -> None:
        self.origins: dict[KeyPath, Origin] = {(): Origin()}
        self._values = 0

    def mapping(self, given: Mapping[str, object], path: KeyPath) -> dict[str, object]:
        found = {}
        for key, value in given.items():
            if not isinstance(key, str):
                raise _refused(path, f"key {key!r} is not a text", fix="give texts as keys")
            refuse_secret(key, (*path, AS_KEY), where=NAME)
            found[key] = self.value(value, (*path, key))
        return found

    def value(self, given: object, path: KeyPath) -> object:
        self._values += 1
        self.origins[path] = Origin()
        try:
            require_few(self._values)
            require_shallow(len(path))
            if isinstance(given, int) and not isinstance(given, bool):
                require_narrow(given)
            plain = fit_text(os.fsdecode(given)) if isinstance(given, (str, os.PathLike)) else given
        except UnfitError as error:
            raise _refused(path, error.what) from None
        if isinstance(plain, Mapping):
            return self.mapping(plain, path)
        if isinstance(plain, (list, tuple)):
            return [self.value(item, (*path, index)) for index, item in enumerate(plain)]
        if plain is not None and not isinstance(plain, (str, int, float, bool)):
            fix = "give a text, a path, a number, true or false, a list or a mapping"
            raise _refused(path, f"a config holds no {type(plain).__name__}", fix=fix)
        refuse_secret(plain, path, where=NAME)
        return plain


def _refused(path: KeyPath, what: str, *, fix: str = "") -> BadInputError:
    where = f"{NAME}: {'.'.join(map(str, path))}" if path else NAME
    return BadInputError(f"{where}: {what}", fix=fix)
