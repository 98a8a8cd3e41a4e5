"""A picture as a list of lines, dots and labels; drawn as SVG here, and by the PDF in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from xml.sax.saxutils import quoteattr

from privacy_pipeline.text.shown_text import in_html

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, kw_only=True)
class Path:
    """A line through points, which may be dashed or filled."""

    points: Sequence[tuple[float, float]]
    colour: str
    width: float = 1.0
    dashed: bool = False
    fill: bool = False


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A round mark; a screen reader reads `says`, and a pointer that rests on the mark shows it."""

    x: float
    y: float
    colour: str
    says: str
    radius: float = 4.0
    hollow: bool = False


@dataclass(frozen=True, kw_only=True)
class Label:
    """A line of text with its baseline at `y`. `scale` marks numbers of an axis, which are not results."""

    x: float
    y: float
    text: str
    colour: str = "#333333"
    size: float = 12.0
    anchor: Anchor = "start"
    scale: bool = False
    bold: bool = False


Item = Path | Dot | Label


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A picture of `width` by `height` units, y pointing down."""

    name: str
    title: str
    description: str
    width: float
    height: float
    items: list[Item] = field(default_factory=list)


def to_svg(drawing: Drawing) -> str:
    """Return the picture as an SVG element with an accessible title and description; it fetches nothing."""
    title, described = f"{drawing.name}-title", f"{drawing.name}-description"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="{title} {described}" '
        f'viewBox="0 0 {drawing.width:g} {drawing.height:g}" font-family="DejaVu Sans, Verdana, sans-serif">'
    )
    parts = [
        head,
        f'<title id="{title}">{in_html(drawing.title)}</title>',
        f'<desc id="{described}">{in_html(drawing.description)}</desc>',
        *map(_element, drawing.items),
        "</svg>",
    ]
    return "\n".join(parts)


def _element(item: Item) -> str:
    if isinstance(item, Path):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in item.points)
        if item.fill:
            return f'<polygon points="{points}" fill={quoteattr(item.colour)}/>'
        dashes = ' stroke-dasharray="5 4"' if item.dashed else ""
        stroke = f'stroke={quoteattr(item.colour)} stroke-width="{item.width:g}"'
        return f'<polyline points="{points}" fill="none" {stroke}{dashes}/>'
    if isinstance(item, Dot):
        fill = "#ffffff" if item.hollow else item.colour
        circle = f'<circle cx="{item.x:.1f}" cy="{item.y:.1f}" r="{item.radius:g}" fill="{fill}"'
        return (
            f'{circle} stroke={quoteattr(item.colour)} stroke-width="1.5"><title>{in_html(item.says)}</title></circle>'
        )
    weight = ' font-weight="bold"' if item.bold else ""
    kind = ' class="scale"' if item.scale else ""
    return (
        f'<text x="{item.x:.1f}" y="{item.y:.1f}" font-size="{item.size:g}" fill={quoteattr(item.colour)} '
        f'text-anchor="{item.anchor}"{weight}{kind}>{in_html(item.text)}</text>'
    )
