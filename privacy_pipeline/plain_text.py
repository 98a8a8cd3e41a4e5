"""Texts as they are compared where two spellings may be one person's."""

from __future__ import annotations

import unicodedata


def plain_text(text: str) -> str:
    """A text without what cannot be seen in it: composition, width, case, blanks around it, and format characters."""
    if not text.isascii():
        normal = unicodedata.normalize("NFKC", text)
        text = "".join(letter for letter in normal if unicodedata.category(letter) != "Cf")
    return text.strip().casefold()
