r"""Text that users, data and other programs gave, as each kind of output can take it: the one home of these rules.

Nothing is dropped: a character that no reader would see, or that would command a terminal, is spelled as Python spells
it (`\x1b`, `\u202e`). Each function is for one kind of sink; `cli/shown.py` adds the markup of the terminal's tables.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

# Controls (C0, DEL, C1), signs that turn the direction of text, invisible ones, ends of lines, halves of pairs, tags.
# The joiners U+200C and U+200D are letters' business in several scripts, and stay.
_UNSEEN = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff"
)
_IN_LINES, _IN_ONE_LINE = re.compile(f"[{_UNSEEN}]"), re.compile(f"[\t\n{_UNSEEN}]")
_MARKDOWN = re.compile(
    r"[\\`*~\[\]<>|&$#]|(?<!\w)_|_(?!\w)|(?:(?<=https)|(?<=http)|(?<=ftp)):|(?<=www)\.|(?<=\w)@(?=\w)", re.IGNORECASE
)
_FORMULA = re.compile(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")


def visible(text: str, *, lines: bool = False) -> str:
    """Return the text with each character that cannot be seen spelled out.

    Args:
        text: any text.
        lines: whether ends of lines and tabs stay, because the text has several lines by itself.
    """
    return (_IN_LINES if lines else _IN_ONE_LINE).sub(_spelled, text)


def _spelled(found: re.Match[str]) -> str:
    return repr(found[0])[1:-1] if not found[0].isprintable() else f"\\u{ord(found[0]):04x}"


def in_markdown(text: str) -> str:
    """Return a cell of a table in Markdown: no HTML, link, image, code, end of cell, or address that becomes a link."""
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", visible(" ".join(text.split())))


def in_csv(value: Any) -> Any:
    """Return a cell of a CSV file: a text that a spreadsheet would take for a formula gets `'` before it;
    numbers stay.
    """
    if not isinstance(value, str):
        return value
    return ("'" if _FORMULA.match(value) else "") + visible(value)


def in_html(text: str) -> str:
    """Return the content of an element or attribute of HTML or XML."""
    return escape(visible(text, lines=True))


def in_json(document: str) -> str:
    r"""Return a JSON document with unseen characters in its strings escaped as `\uXXXX`; its value is the same."""
    return _IN_LINES.sub(lambda found: _utf16(found[0]), document)


def _utf16(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def throughout(value: Any) -> Any:
    """Return a value of lists and mappings with each text in it made visible."""
    if isinstance(value, str):
        return visible(value, lines=True) if type(value) is str else value
    if isinstance(value, dict):
        return {throughout(name): throughout(below) for name, below in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(throughout(below) for below in value)
    return value
