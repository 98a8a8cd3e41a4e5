"""Texts as they are compared where two spellings may be one person's."""

from __future__ import annotations

import unicodedata


def plain_text(text: str) -> str:
    """Return a text without what cannot be seen in it: composition, width, case, blanks around it, and format
    characters.
    """
    if not text.isascii():
        normal = unicodedata.normalize("NFKC", text)
        text = "".join(letter for letter in normal if unicodedata.category(letter) != "Cf")
    return text.strip().casefold()


def plain_key(key: str) -> str:
    """Return a unit's key as keys are compared: "07" and "7", or "Ann" and " ann", are the same."""
    for text in (key, plain := plain_text(key)):  # a number may have letters that cannot be seen
        try:
            return str(int(text))
        except ValueError:
            continue
    return plain
