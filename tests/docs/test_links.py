"""Each link between pages leads somewhere, and the site's navigation lists each page once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import PAGES, ROOT
from tools.links import READ, main, problems
from tools.markdown import anchor, blocks


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name functions of the site's builder."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def named(nav: Any) -> Iterator[str]:
    """The pages of a navigation, in its order."""
    for entry in nav:
        for target in entry.values():
            if isinstance(target, str):
                yield target
            else:
                yield from named(target)


def test_each_link_leads_somewhere() -> None:
    assert main([str(ROOT / name) for name in READ]) == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[a](other.md)", "no such file"),
        ("[a](page.md#nowhere)", "lacks a heading"),
        ("[a\nb](#nowhere)", "lacks a heading"),
        ("![a](image.svg)", "no such file"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(text: str, reason: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        f"# Title\n\nSee `[x](y.md)`, [b](#title) and [c](https://example.org/d).\n\n    [x](y.md)\n\n{text}\n"
    )
    ((_, _, found),) = problems(page)
    assert reason in found


def test_anchors_are_those_of_the_site() -> None:
    assert anchor("What is *not* proven, `fit(x, y)` and [more](a.md)") == "what-is-not-proven-fitx-y-and-more"
    assert anchor("Keys — and locks") == "keys--and-locks"


def test_blocks_are_told_from_lists_and_text() -> None:
    page = (
        '- a list\n\n    of two paragraphs\n\ntext\n\n    a block\n\n    and its end\n\n```yaml title="T"\na: 1\n```\n'
    )
    assert [(block.line, block.language, block.title, block.code) for block in blocks(page)] == [
        (7, "", "", "a block\n\nand its end"),
        (11, "yaml", "T", "a: 1"),
    ]


def test_the_navigation_lists_each_page_once() -> None:
    listed = list(named(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=_Loader)["nav"]))
    assert len(set(listed)) == len(listed)
    assert not [page for page in listed if not (ROOT / page).is_file()]
    assert not set(PAGES) - set(listed)
