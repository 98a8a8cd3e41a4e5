"""The YAML text as plain data that remembers where each value came from: a line of the file, or an override."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from privacy_pipeline.config.yaml_text import LARGEST, Loader, UnfitError, require_few, require_shallow, text_of
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import read_bounded
from privacy_pipeline.text import secret_text

Key = str | int
KeyPath = tuple[Key, ...]

_METADATA_FIX = "name the environment variable that holds it: metadata.password_env"
_SECRET_FIX = "keep it in an environment variable or in a file of mode 0600, and name that here"
AS_KEY = "(a key)"
_QUOTE_FIX = "put quotes around a value that starts with one of > | & * ! % @ { [ or holds ': ' or ' #'"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a value was written: a line of the file, an override, or a program (then `line` is 0)."""

    line: int = 0
    override: str = ""


@dataclass(kw_only=True)
class Document:
    """A mapping with the origin of every key and item in it.

    Attributes:
        name: the file, as the user named it.
        data: plain Python values.
        origins: origin by path of keys; the root's path is ().
        overrides: (path, text) of each override, in order.
    """

    name: str
    data: dict[str, object]
    origins: dict[KeyPath, Origin]
    overrides: list[tuple[KeyPath, str]] = field(default_factory=list)

    def origin(self, path: KeyPath) -> Origin:
        """Return the origin of the nearest written ancestor of `path`, itself included."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins[path]

    def where(self, path: KeyPath) -> str:
        """Start of an error line: `configs/x.yaml:12`, the override, or `config` where a program gave the values."""
        origin = self.origin(path)
        if origin.override:
            return f"override '{origin.override}'"
        return f"{self.name}:{origin.line}" if origin.line else self.name


def read_document(*, path: Path) -> Document:
    """Read a YAML file.

    Args:
        path: the file.

    Raises:
        BadInputError: the file cannot be read, is not YAML, or is not a mapping with distinct text keys.
    """
    text, name = _text(path), str(path)
    try:
        node = yaml.compose(text, Loader=Loader)
        if not isinstance(node, yaml.MappingNode):
            what = "is empty" if node is None else "holds no mapping at the top level"
            raise BadInputError(f"{name}: {what}", fix="start from one of configs/*.yaml")
        origins: dict[KeyPath, Origin] = {(): Origin(line=node.start_mark.line + 1)}
        data = _Builder(name=name, origins=origins).mapping(node, ())
    except yaml.YAMLError as error:
        raise BadInputError(f"{name}{_yaml_problem(error)}", fix=_QUOTE_FIX) from None
    except UnfitError as error:
        raise _unfit(name, error) from None
    return Document(name=name, data=data, origins=origins)


def _text(path: Path) -> str:
    try:
        content = read_bounded(path, most=LARGEST)
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file", fix="check the path to the config") from None
    except OSError as error:
        fix = "give the YAML file in it" if path.is_dir() else "check the file's permissions"
        raise BadInputError(f"{path}: cannot be read ({error.strerror})", fix=fix) from None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: not a UTF-8 text file ({error.reason})") from None


def _unfit(name: str, error: UnfitError) -> BadInputError:
    return BadInputError(f"{name}:{error.line}: {error.what}" if error.line else f"{name}: {error.what}")


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        return f"{where}: not valid YAML: {error.problem or error.context}"
    return f": not valid YAML: {' '.join(str(error).split())}"


class _Builder:
    """Turns YAML nodes into plain values and notes the line of each."""

    def __init__(self, *, name: str, origins: dict[KeyPath, Origin], below: KeyPath = ()) -> None:
        self._name, self._below = name, below
        self._origins = origins
        self._loader = Loader("")
        self._open: list[yaml.Node] = []
        self._values = 0

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        self._refuse_duplicates(node)
        self._loader.flatten_mapping(node)  # resolves `<<`; what is merged in comes first, so own keys win
        result: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            here = (*path, key)
            self._origins[here] = Origin(line=key_node.start_mark.line + 1)
            result[key] = self.value(value_node, here)
        return result

    def value(self, node: yaml.Node, path: KeyPath) -> object:
        self._values += 1
        require_few(self._values)
        require_shallow(len(self._open))
        if any(node is parent for parent in self._open):
            raise BadInputError(f"{self._name}:{node.start_mark.line + 1}: an alias refers to what contains it")
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self._item(item, (*path, index)) for index, item in enumerate(node.value)]
            scalar = self._loader.scalar(node)
            self._refuse_secret(scalar, (*self._below, *path), node)
            return scalar
        finally:
            self._open.pop()

    def _refuse_secret(self, value: object, path: KeyPath, node: yaml.Node) -> None:
        refuse_secret(value, path, where="override" if self._below else f"{self._name}:{node.start_mark.line + 1}")

    def _item(self, node: yaml.Node, path: KeyPath) -> object:
        self._origins[path] = Origin(line=node.start_mark.line + 1)
        return self.value(node, path)

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
            shown = f" '{node.value}'" if isinstance(node, yaml.ScalarNode) else ""
            raise BadInputError(f"{self._name}:{node.start_mark.line + 1}: key{shown} is not a text; put it in quotes")
        key = text_of(node)
        self._refuse_secret(key, (*self._below, AS_KEY), node)
        return key

    def _refuse_duplicates(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self._key(key_node), key_node.start_mark.line + 1
            if key in seen:
                raise BadInputError(
                    f"{self._name}:{line}: key '{key}' is given twice (first on line {seen[key]})",
                    fix="keep one of the two",
                )
            seen[key] = line


def refuse_secret(value: object, path: KeyPath, *, where: str) -> None:
    """Refuse a password: what a config holds is copied to the workspace and to ML Metadata.

    Args:
        value: of the key, or the key itself.
        path: of keys.
        where: start of the message.

    Raises:
        BadInputError: the value is a password by its key, or holds one.
    """
    key = next((str(part) for part in reversed(path) if isinstance(part, str)), "").rpartition(".")[2]
    named = value not in (None, "") and not isinstance(value, bool) and secret_text.is_name(key)
    in_url = secret_text.found_in_url if key == "ledger" else secret_text.found_in
    if not named and not (isinstance(value, str) and in_url(value)):
        return
    dotted = ".".join(map(str, path))
    fix = secret_text.HOW if key == "ledger" else _METADATA_FIX if path[0] == "metadata" else _SECRET_FIX
    raise BadInputError(f"{where}: {dotted}: a config holds no passwords; they would be copied with it", fix=fix)


def apply_overrides(*, document: Document, overrides: Sequence[str]) -> None:
    """Set values in `document` from texts like `training.epochs=5`, in order.

    Args:
        document: changed in place.
        overrides: `a.b.c=value` each; the value is YAML.

    Raises:
        BadInputError: an override has no `=`, an empty key, a value that is not YAML, or a parent without keys.
    """
    for override in overrides:
        text = secret_text.masked_override(override)
        path, value = _parse_override(override, text)
        parent = _parent_mapping(document, path, text)
        parent[str(path[-1])] = value
        for stale in [known for known in document.origins if known[: len(path)] == path]:
            del document.origins[stale]
        for below in _paths(value, path):
            document.origins[below] = Origin(override=text)
        document.overrides.append((path, text))


def _parse_override(override: str, text: str) -> tuple[KeyPath, object]:
    dotted, equals, raw = override.partition("=")
    keys = tuple(part.strip() for part in dotted.split("."))
    if not equals:
        raise BadInputError(f"override '{text}': '=' is missing", fix="write it as section.key=value")
    if not all(keys):
        raise BadInputError(f"override '{text}': a key is empty", fix="write it as section.key=value")
    try:
        require_shallow(len(keys))
        node = yaml.compose(raw, Loader=Loader)
        value = None if node is None else _Builder(name=f"override '{text}'", origins={}, below=keys).value(node, ())
    except yaml.YAMLError as error:
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else " ".join(str(error).split())
        raise BadInputError(f"override '{text}': the value is not valid YAML: {problem}", fix=_QUOTE_FIX) from None
    except UnfitError as error:
        raise BadInputError(f"override '{text}': {error.what}") from None
    return keys, value


def _parent_mapping(document: Document, path: KeyPath, text: str) -> dict[str, object]:
    current = document.data
    for depth, key in enumerate(path[:-1], start=1):
        here = path[:depth]
        if str(key) not in current:
            current[str(key)] = {}
            document.origins[here] = Origin(override=text)
        below = current[str(key)]
        if not isinstance(below, dict):
            dotted = ".".join(map(str, here))
            raise BadInputError(
                f"override '{text}': `{dotted}` is not a mapping ({document.where(here)})",
                fix=f"replace it as a whole: {dotted}={{{path[depth]}: ...}}",
            )
        current = below
    return current


def _paths(value: object, path: KeyPath) -> Iterator[KeyPath]:
    yield path
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _paths(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _paths(below, (*path, index))
