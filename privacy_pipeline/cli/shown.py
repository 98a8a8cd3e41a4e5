"""Text for a terminal: it is never markup, and only Rich itself sends control sequences."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape as _escape
from rich.segment import Segment

from privacy_pipeline.text.shown_text import visible


class PlainConsole(Console):
    """A console on which no text moves the cursor, changes the reading direction or hides; see `shown_text`."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is printed, piece by piece."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else visible(segment.text, lines=True)
            yield segment if text == segment.text else Segment(text, segment.style)


def escape(text: str) -> str:
    """Return a text escaped for Rich's markup, also a text that ends in backslashes."""
    text = visible(text, lines=True)
    ending = len(text) - len(text.rstrip("\\"))
    # Rich interprets backslashes only before a tag, so add a tag that does nothing.
    return _escape(text.rstrip("\\")) + ("\\" * (2 * ending) + "[none][/none]" if ending else "")


def cell(text: str) -> str:
    """Return the same for a cell of a table, or for a name inside a line: without line breaks."""
    return escape(visible(text))
