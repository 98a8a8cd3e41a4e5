"""What is printed on a terminal: text is no markup, and only Rich itself sends control sequences."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape as _escape
from rich.segment import Segment

from privacy_pipeline.text.shown_text import visible


class PlainConsole(Console):
    """A console on which no text moves the cursor, turns the direction of reading or hides; see `shown_text`."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is printed, piece by piece."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else visible(segment.text, lines=True)
            yield segment if text == segment.text else Segment(text, segment.style)


def escape(text: str) -> str:
    """Return a text inside of Rich's markup, of which it is no part: also one that ends in backslashes."""
    text = visible(text, lines=True)
    ending = len(text) - len(text.rstrip("\\"))
    # Rich reads backslashes before a tag alone, so these are followed by one that does nothing.
    return _escape(text.rstrip("\\")) + ("\\" * (2 * ending) + "[none][/none]" if ending else "")


def cell(text: str) -> str:
    """Return the same for a cell of a table, or for a name inside of a line: it has no ends of lines."""
    return escape(visible(text))
