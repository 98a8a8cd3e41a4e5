"""YAML as its writers mean it, and no more of it than a person writes: the loader below `source`.

A document is refused where a small text would stand for very much (aliases, merge keys, deep nesting), and where a tag
and its value do not fit together.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

LARGEST = 1 << 18  # bytes of a file
MOST_VALUES = 10_000  # in a document, those that aliases stand for counted each time
DEEPEST = 100  # collections inside of each other
_LARGEST_INTEGER = 1 << 64
_TAG = "tag:yaml.org,2002:"
# What a written tag may turn a value of this form into.
_FORMS = {
    f"{_TAG}float": (f"{_TAG}float", f"{_TAG}int"),
    f"{_TAG}int": (f"{_TAG}int",),
    f"{_TAG}bool": (f"{_TAG}bool",),
    f"{_TAG}null": (f"{_TAG}null",),
}

_COLLECTIONS: dict[type[yaml.Node], str] = {yaml.MappingNode: f"{_TAG}map", yaml.SequenceNode: f"{_TAG}seq"}


class UnfitError(Exception):
    """A document that is YAML, but not one that is read here.

    Args:
        what: the rest of a sentence about the file: "is nested too deeply".
        line: of the file; 0 where it is about the whole.
    """

    def __init__(self, what: str, *, line: int = 0) -> None:
        super().__init__(what)
        self.what, self.line = what, line


class Loader(yaml.SafeLoader):
    """SafeLoader whose plain scalars mean what their writers expect, with limits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0

    def fetch_flow_collection_start(self, *args: Any) -> None:
        """Open `[` or `{`. The scanner looks at all open ones for each token."""
        require_shallow(self.flow_level)
        super().fetch_flow_collection_start(*args)

    def add_indent(self, column: int) -> bool:
        """Open a collection by its indentation."""
        require_shallow(len(self.indents))
        return bool(super().add_indent(column))

    def fetch_more_tokens(self) -> Any:
        """Read on to the next token. The scanner leaves numbers in escapes and `%YAML` lines to Python."""
        try:
            return super().fetch_more_tokens()
        except (ValueError, OverflowError):
            what = "a number behind \\U (at most \\U0010FFFF) or %YAML is out of range"
            raise UnfitError(what, line=self.line + 1) from None

    def compose_node(self, *args: Any) -> yaml.Node | None:
        """Return the next node; all are counted, and a list or mapping is nothing else by its tag."""
        self._values += 1
        require_few(self._values)
        found: yaml.Node | None = super().compose_node(*args)
        if found is not None and found.tag != _COLLECTIONS.get(type(found), found.tag):
            raise UnfitError(f"values of type {found.tag} are not supported", line=found.start_mark.line + 1)
        return found

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Resolve `<<`, which doubles where a merged mapping holds one itself."""
        super().flatten_mapping(node)
        require_few(len(node.value))

    def scalar(self, node: yaml.Node) -> str | int | float | bool | None:
        """Return the value of a scalar.

        Raises:
            UnfitError: its tag is none of YAML's plain ones, its text is not of that form, or it is out of range.
        """
        line = node.start_mark.line + 1
        if node.tag == f"{_TAG}str":
            return text_of(node)
        if node.tag not in _FORMS:
            raise UnfitError(f"values of type {node.tag} are not supported", line=line)
        written = self.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
        if written not in _FORMS[node.tag]:
            raise UnfitError(f"{node.value!r} is not a valid {node.tag.removeprefix(_TAG)}", line=line)
        try:
            value: int | float | bool | None = self.construct_object(node)
        except ValueError:  # more digits than Python reads
            value = _LARGEST_INTEGER
        if isinstance(value, int):
            require_narrow(value, line=line)
        return value


def require_few(count: int) -> None:
    """Refuse more values than `MOST_VALUES`.

    Raises:
        UnfitError: there are more.
    """
    if count > MOST_VALUES:
        raise UnfitError(f"stands for more than {MOST_VALUES:,} values, written or by aliases")


def require_shallow(depth: int) -> None:
    """Refuse what is inside of `DEEPEST` collections.

    Raises:
        UnfitError: it is.
    """
    if depth >= DEEPEST:
        raise UnfitError("is nested too deeply")


def text_of(node: yaml.Node) -> str:
    """Return the text of a scalar.

    Raises:
        UnfitError: it is one that no file name, message or JSON document can hold.
    """
    return fit_text(str(node.value), line=node.start_mark.line + 1)


def fit_text(text: str, *, line: int = 0) -> str:
    """Return a text.

    Raises:
        UnfitError: it is one that no file name, message or JSON document can hold.
    """
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UnfitError("a text holds \\0 or half of a surrogate pair", line=line)
    return text


def require_narrow(value: int, *, line: int = 0) -> None:
    """Refuse an integer of more than 64 bits.

    Raises:
        UnfitError: it is one.
    """
    if not -_LARGEST_INTEGER < value < _LARGEST_INTEGER:
        raise UnfitError("an integer has more than 64 bits; write a large number as 1e30", line=line)


# YAML 1.1 reads `1e-5` as text, `1:30` as 90, `010` as 8 and `2020-01-01` as a date: none of these is what is meant.
_OWN_RESOLVERS = (f"{_TAG}float", f"{_TAG}int", f"{_TAG}timestamp")
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OWN_RESOLVERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(
        r"""^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
            |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
            |[0-9][0-9_]*[eE][-+]?[0-9]+
            |\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$""",
        re.VERBOSE,
    ),
    list("-+.0123456789"),
)
Loader.add_implicit_resolver(
    f"{_TAG}int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"),
    list("-+0123456789"),
)
