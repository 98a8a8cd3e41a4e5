"""Passwords in texts: what one looks like, and the mask that each output puts over it. The one home of both.

A URL or a key that a config holds is copied: to the spec of a run, to ML Metadata, to messages. So none may hold a
password (`found_in`, `found_in_url`). What still gets one, from a driver or from an older version's files, prints it
covered (`masked`).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, TextIO
from urllib.parse import quote, unquote, unquote_plus

from privacy_pipeline.text.shown_text import visible

MASK = "***"
HOW = (
    "leave the password out of the URL, and give it in PGPASSWORD, or in ~/.pgpass or another file of mode 0600 that "
    "PGPASSFILE or ?passfile=FILE names"
)
_SHORTEST = 4  # characters of a password that is masked wherever it stands; a shorter one may be part of any word
# Bounded, so that a long word takes no quadratic time.
_NAME = (
    r"(?:\w{0,64}pass(?:word|wd|phrase|code)|pwd|\w{0,64}secret_?(?:access_?)?key"
    r"|\w{0,64}client_secret|\w{0,64}session_?token|\w{0,64}api_?key)"
)
_NAMED = re.compile(rf"(?<![a-z]){_NAME}['\"]?\s*=\s*[^\s&;,#]", re.IGNORECASE)
_KEY = re.compile(rf"{_NAME}|secret|token|credentials?", re.IGNORECASE)
# What stands before a password in a URL. It may hold a slash; what begins with digits and a slash is a port and a path,
# but in the URL of a database.
_USER = re.compile(r":(?:\\?/){2}[^\s/@:?#\"'<>\[]*:(?!\d*(?:/|$))")
_USER_OF_DATABASE = re.compile(
    r"\b(?:postgres|mysql|mariadb)[a-z+\d]{0,32}:(?:\\?/){0,8}[^\s/@:?#\"'<>\[]*:", re.IGNORECASE
)
_IN_URL = re.compile(r"://[^\s/@:?#\[]*:(?!\d*(?:/|$))")
_DATABASE = re.compile(r"\s*(?:postgres|mysql|mariadb)\w*(?:\+\w+)?:", re.IGNORECASE)
# However many slashes there are; but what follows `sqlite:///` is the path of a file.
_IN_AUTHORITY = re.compile(
    r"\s*(?:(?!\s|sqlite)[^:/?@]+:/{0,8}|sqlite[^:/?@]*:/{0,2}(?!/))[^?@]*:[^?]+@", re.IGNORECASE
)
_MASKED = (
    (re.compile(rf"((?<![a-z]){_NAME}['\"]?\s*=\s*)(?:'[^']*'|\"[^\"]*\"|[^\s&;,#'\"]+)", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(rf"(\"{_NAME}\"\s*:\s*)\"(?:[^\"\\]|\\.)*\"", re.IGNORECASE), rf'\1"{MASK}"'),
    (re.compile(rf"('{_NAME}'\s*:\s*)'(?:[^'\\]|\\.)*'", re.IGNORECASE), rf"\1'{MASK}'"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"), MASK),
)
_ENCODED = re.compile(r"(?<![\w%])([\w%]+)=([^\s&;,#'\"]+)")
_WORD, _PART = re.compile(r"[^\s\"'<>]+"), re.compile(r"[^\s\"'<>,;{}\\]+")
_OPTION = re.compile(rf"-{{1,2}}{_NAME}", re.IGNORECASE)  # whose value is the next argument
_WRITTEN = re.compile(rf"({_NAME}['\"]?\s*:\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,}}]+)", re.IGNORECASE)
_SIGN = re.compile(r"[:=%-]")  # one of which each shape of a password has
_variables = {"PGPASSWORD"}


def found_in(text: str) -> bool:
    """Return whether a text, percent-encoded or not, holds a URL with a password or a `password=...`."""
    if not _SIGN.search(text):
        return False
    if _OPTION.fullmatch(text):
        return True
    shapes = (text, _decoded(text))
    if any(_DATABASE.match(shape) and _has_authority(shape) for shape in shapes):
        return True
    return any(_has_url(shape) or _NAMED.search(shape) for shape in shapes) or "PRIVATE KEY--" in text


def found_in_url(url: str) -> bool:
    """Return whether what is given for the URL of a database holds a password, whether it is a URL at all or not."""
    plain = unicodedata.normalize("NFKC", url)  # a colon of another width is one for a reader
    return found_in(plain) or any(map(_has_authority, (plain, _decoded(plain))))


def is_name(key: str) -> bool:
    """Return whether a config's key is named as a password, and not as what names one (`password_env`, `passfile`)."""
    return _KEY.fullmatch(_decoded(key)) is not None


def _decoded(text: str, *, by: Callable[[str], str] = unquote_plus) -> str:
    """Return a text without percent-encoding, also where it was encoded several times over."""
    if "%" not in text:
        return by(text)
    for _ in range(8):
        text, before = by(text), text
        if text == before:
            break
    return text


def without_passwords(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that a process gets which connects to no database."""
    return {name: value for name, value in variables.items() if name not in _variables}


def note_variable(name: str) -> None:
    """From now on the value of this environment variable is masked, too."""
    _variables.add(name)


def masked(text: str) -> str:
    """Return the text with each password in it covered: what looks like one, and what environment variables hold."""
    for name in sorted(_variables):
        value = os.environ.get(name, "")
        if len(value) >= _SHORTEST:
            for spelled in {value, quote(value, safe=""), repr(value)[1:-1]}:
                text = text.replace(spelled, MASK)
    return masked_by_look(text)


def masked_by_look(text: str) -> str:
    """Return the same for results, which stay JSON, and in which the value of a variable may be any other word or
    number.
    """
    if "=" in text or ":" in text or "PRIVATE KEY" in text:
        text = _covered(text)
    if "%" in text:
        text = _PART.sub(lambda word: MASK if _is_encoded(word[0]) else word[0], text)
    if "=" in text:
        text = _ENCODED.sub(lambda pair: f"{pair[1]}={MASK}" if "%" in pair[1] and is_name(pair[1]) else pair[0], text)
    return text


def _is_encoded(word: str) -> bool:
    """Return whether a word is percent-encoded so that no shape shows in it what one shows in its meaning."""
    meant = _decoded(word, by=unquote) if "%" in word else word
    return meant != word and _covered(meant) != meant


def _covered(text: str) -> str:
    if "@" in text:
        text = _WORD.sub(lambda word: _covered_url(word[0]), text)
    for shape, cover in _MASKED:
        text = shape.sub(cover, text)
    return text


def _covered_url(word: str) -> str:
    """Return a word in which all from a user's name to the last `@` is covered, which stands before the host."""
    named = _USER_OF_DATABASE.search(word)
    if named is not None:
        ends = word[: (word.find("?", named.end()) + 1 or len(word) + 1) - 1].rfind("@")
        if ends >= named.end():
            word = word[: named.end()] + MASK + word[ends:]
    ends = word.rfind("@")
    user = None if ends < 0 else _USER.search(word, 0, ends)
    return word if user is None else word[: user.end()] + MASK + word[ends:]


def _has_url(text: str) -> bool:
    for word in text.split() if "@" in text else ():
        for user in _IN_URL.finditer(word):
            ends = word.find("@", user.end())
            if ends > user.end():
                return True
            if ends < 0:
                break
    return False


def _has_authority(text: str) -> bool:
    address = text.partition("?")[0]
    return "@" in address and _IN_AUTHORITY.match(address) is not None


def masked_override(text: str) -> str:
    """Return the same for an override, which may hold YAML: `metadata={password: x}`."""
    return _WRITTEN.sub(rf"\1{MASK}", masked(text))


class Log:
    """A log that holds no password, and no character that would command the terminal of its reader.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write; gives the length of what was asked for."""
        self._stream.write(visible(masked(text), lines=True))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
