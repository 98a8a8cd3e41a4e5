"""Hostile names: what each output makes of text that commands a terminal, turns around, links, or computes."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from markdown_it import MarkdownIt
from rich.table import Table
from typer.testing import CliRunner

from privacy_pipeline.cli import tables
from privacy_pipeline.cli.export import to_markdown, to_svg
from privacy_pipeline.cli.main import app
from privacy_pipeline.cli.shown import PlainConsole, cell, escape
from privacy_pipeline.ledger.audit.export import COLUMNS, to_csv, to_json_lines
from privacy_pipeline.pictures.drawing import Dot, Drawing, Item, Label
from privacy_pipeline.pictures.drawing import to_svg as drawn
from privacy_pipeline.reports.record.properties import metric_properties
from privacy_pipeline.reports.record.summary import RunSummary, SliceMetrics
from privacy_pipeline.text.shown_text import in_csv, in_html, in_json, in_markdown, visible
from tests.cli.test_tables import made_run, make_state
from tests.package_sources import PACKAGES, dotted_names
from tests.reports.records import dp_record, make_summary

HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m",
    "link of a terminal": "\x1b]8;;http://evil.example\x07x\x1b]8;;\x07",
    "title of a terminal": "\x1b]0;x\x1b\\",
    "C1": "\x9b31mx\x9d0;y\x9c",
    "turned": "\u202egpj.exe\u2066a\u2069\u200f\u061c",
    "unseen": "a\u200bb\ufeffc\xad\u2060d\U000e0041",
    "lines": "a\nerror: b\r\nc\x85d\u2028e\x0bf",
    "tab and bell": "a\tb\x07\x08\x7f\0",
    "half": "a\udc80b",
    "markup": "[red]x[/] [link=http://evil.example]y[/link] [/bold]",
    "backslashes": "x\\\\\\",
    "html": "</td></title><script>alert(1)</script><img src=x onerror=alert(1)>&lt;\"'",
    "markdown": "[x](http://evil.example) ![y](http://evil.example/p.png) `z` **b** ~~c~~ | d |",
    "addresses": "https://evil.example www.evil.example ftp://evil.example me@evil.example",
    "formula": "=cmd|' /C calc'!A0",
    "formula +": "+1+1",
    "formula -": "-2+3",
    "formula @": "@SUM(1)",
    "formula behind blanks": "\t =1+1",
    "wide formula": "\uff1d1+1",
}
each = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)


def unsafe(text: str, *, lines: bool = True) -> list[str]:
    """Characters that no output may have as they are."""
    kept = "\u200c\u200d" + ("\n\t" if lines else "")
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in kept]


def printed(*renderables: Any) -> str:
    """What a terminal gets, without the styles of Rich's own."""
    console = PlainConsole(file=io.StringIO(), force_terminal=True, width=300, highlight=False, emoji=False)
    for renderable in renderables:
        console.print(renderable, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())


@each
def test_terminals_get_what_was_written_and_no_command(text: str) -> None:
    table = Table("[bold]head[/]")
    table.add_row(cell(text))
    said = printed(table, f"[red]{escape(text)}[/] behind", f"[red]{cell(text)}[/]")
    assert not unsafe(said)
    shown = visible(text, lines=True)
    for line in shown.split("\n"):
        assert line.expandtabs() in said.replace("\\\t", "\t").expandtabs()
    assert f"{shown.splitlines()[-1]} behind".expandtabs() in said.expandtabs() and "\x1b" not in said
    assert not unsafe(printed(re.sub(r"\[", "", text)))  # also where nobody escaped it


@each
def test_nothing_is_dropped_and_no_two_are_alike(text: str) -> None:
    assert not unsafe(visible(text), lines=False) and len(visible(text)) >= len(text)
    assert visible(visible(text)) == visible(text)
    assert json.loads(in_json(json.dumps(text, ensure_ascii=False))) == text
    assert not unsafe(in_json(json.dumps([text], ensure_ascii=False, indent=1)))


def test_letters_of_all_scripts_stay() -> None:
    for text in ("größe", "日本", "می\u200cخواهم", "क्ष\u200d", "👩\u200d🔬", "a_b-c d.e/f", ">50K", "1e-5", "-"):
        assert visible(text) == text == html_text(in_html(text)) and json.loads(in_json(json.dumps(text))) == text
    assert in_markdown("hours_per_week=12.5, age - 3") == "hours_per_week=12.5, age - 3"
    assert in_csv(-1.5) == -1.5 and in_csv("adult") == "adult" and in_csv(None) is None


def html_text(content: str) -> str:
    """Text of a piece of HTML that holds no element."""

    class Reader(HTMLParser):
        said = ""

        def handle_data(self, data: str) -> None:
            self.said += data

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            raise AssertionError(tag)

    reader = Reader()
    reader.feed(content)
    reader.close()
    return reader.said


@each
def test_html_and_svg_hold_text_alone(text: str) -> None:
    assert html_text(in_html(text)) == visible(text, lines=True) and not set(in_html(text)) & set("<>\"'")
    items: list[Item] = [Label(x=0, y=0, text=text), Dot(x=0, y=0, colour="#fff", says=text)]
    picture = drawn(Drawing(name="p", title=text, description=text, width=1, height=1, items=items))
    assert not unsafe(picture)
    assert "script" not in {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(picture).iter()}
    table = Table("x", title=escape(text))
    table.add_row(cell(text))
    of_rich = to_svg(table)
    assert not unsafe(of_rich) and {e.tag.rpartition("}")[2] for e in ElementTree.fromstring(of_rich).iter()} <= {
        *("svg", "style", "defs", "clipPath", "rect", "text", "g", "circle")
    }


@each
def test_markdown_has_a_cell_for_a_cell(text: str) -> None:
    table = Table("a", "b")
    table.add_row(cell(text), "last")
    rendered = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(to_markdown(table))
    assert rendered.count("<td>") == 2 and rendered.count("<tr>") == 2
    assert not set(re.findall(r"<(\w+)", rendered)) - {"table", "thead", "tbody", "tr", "th", "td"}
    assert not unsafe(rendered) and not re.search(r"(?i)(https?|ftp)://|www\.|\w@\w", to_markdown(table))
    said = " ".join(visible(text).split())
    assert html_text(re.findall(r"<td>(.*?)</td>", rendered)[0]) == said


@each
def test_spreadsheets_get_no_formula(text: str) -> None:
    row = {name: None for name in COLUMNS} | {"run_id": text, "node": text, "span": 1, "epsilon_alone": -0.5}
    (read,) = csv.DictReader(io.StringIO(to_csv([row])))
    assert not re.match(r"\s*[=+\-@\t\r\uff1d]", read["run_id"]) and not unsafe(read["run_id"], lines=False)
    assert read["epsilon_alone"] == "-0.5" and read["span"] == "1"
    lines = to_json_lines([row])
    assert json.loads(lines)["run_id"] == text and lines.count("\n") == 1 and not unsafe(lines)


def hostile_summary(text: str) -> RunSummary:
    """A run whose unit and slices have that name."""
    record = dp_record().model_copy(update={"unit": text, "unit_in_words": f"{text} in words"})
    summary = make_summary(record)
    part = SliceMetrics(name=text, examples=5, metrics={"accuracy": 0.5}, undefined={"auc": f"no {text}"})
    return summary.model_copy(update={"slices": [*summary.slices, part], "reasons": [text], "model_uri": text})


@each
def test_every_table_takes_hostile_names(text: str) -> None:
    summary = hostile_summary(text)
    made = [
        tables.run_table(summary),
        tables.privacy_table(summary.record),
        tables.runs_table([made_run(make_state(), summary)]),
        tables.diff_table(summary, summary),
    ]
    said = printed(*made)
    assert not unsafe(said) and visible(text) in said.replace("\\\t", "\t")
    for table in made:
        assert not unsafe(to_markdown(table)) and ElementTree.fromstring(to_svg(table)) is not None
    assert metric_properties(summary)["unit"] == visible(text)


@each
def test_commands_name_hostile_paths_as_they_are(text: str, tmp_path: Path) -> None:
    if "\0" in text or "\udc80" in text:
        return  # no path, and no argument of a command in UTF-8
    place = str(tmp_path / text.replace("/", "-"))
    for arguments in (["runs", "--workspace", place], ["check", f"{place}.yaml"], ["show", text, "--workspace", place]):
        for more in ([], ["--json"]):
            ended = CliRunner().invoke(app, [*arguments, *more])
            said = ended.stdout + ended.stderr
            assert not unsafe(said) and not isinstance(ended.exception, Exception), said
            if not more and arguments[0] != "show":
                assert "".join(visible(place, lines=True).split()) in "".join(said.split())


def test_tensorboard_gets_numbers_alone() -> None:
    names = {name for package in PACKAGES for name in dotted_names(package)}
    used = {name.rpartition(".")[2] for name in names if re.fullmatch(r".+\.summary\.\w+", name, re.DOTALL)}
    assert "scalar" in used and not used & {"text", "image", "audio", "histogram", "write", "graph"}


# What writes text that a reader sees, and the one module (or two) that may call it by itself.
HOMES = {
    "typer.echo": {"cli/output.py"},
    "rich.markup.escape": {"cli/shown.py"},
    # The last two name the type.
    "rich.console.Console": {"cli/shown.py", "cli/live.py", "cli/commands/serving_commands.py"},
    "html.escape": {"text/shown_text.py"},
    "xml.sax.saxutils.escape": set(),
    # The last two write data, as it is.
    "csv.writer": {"encrypted/client/predictions.py", "data/datasets/adult.py", "data/datasets/panels.py"},
    "csv.DictWriter": {"ledger/audit/export.py"},
}


@pytest.mark.parametrize("called", HOMES)
def test_all_writers_go_through_the_homes(called: str) -> None:
    names = dotted_names("privacy_pipeline")
    found = {*names.get(called, ()), *names.get(f"from {called}", ())}
    assert found <= HOMES[called]


def test_registry_records_hold_no_unseen_character() -> None:
    for text in HOSTILE.values():
        written = yaml.safe_dump({"a": visible(text, lines=True)}, allow_unicode=True)
        assert not unsafe(written) and yaml.safe_load(written) == {"a": visible(text, lines=True)}
