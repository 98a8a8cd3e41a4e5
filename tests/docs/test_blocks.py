"""Each block of code on a page is run, read or parsed by a test, or is marked as output (`text`)."""

from __future__ import annotations

import ast
import importlib.util
import re
from typing import Any

import pytest
from typer.main import get_command

from privacy_pipeline.cli.lazy import LazyCommand
from privacy_pipeline.cli.main import app
from tests.docs.pages import ROOT, RUN_BY, all_blocks, commands, of_page

RUN = ("python", "yaml", "sh")
OUTPUT = "text"
FENCED = [(page, block) for page, block in all_blocks() if block.fenced and page not in RUN_BY]
SKETCHES = [(page, block) for page, block in FENCED if block.language == "python" and block.title]
COMMANDS = [(page, words) for page, block in all_blocks() for words in commands(block)]


def test_each_fence_says_what_it_holds() -> None:
    unmarked = [f"{page}:{block.line}" for page, block in FENCED if block.language not in (*RUN, OUTPUT)]
    assert not unmarked, f"mark these as one of {RUN}, or as {OUTPUT} where they are output"


@pytest.mark.parametrize("page", [page for page in RUN_BY if (ROOT / page).exists()])
def test_a_page_with_a_test_of_its_own_is_run_by_it(page: str) -> None:
    assert page.rpartition("/")[2] in (ROOT / RUN_BY[page]).read_text()


@pytest.mark.parametrize(("page", "block"), SKETCHES, ids=[f"{page}:{block.line}" for page, block in SKETCHES])
def test_a_titled_block_imports_what_is_there(page: str, block: Any) -> None:
    """A title says why a block does not run by itself; it parses, and what it imports exists."""
    tree = ast.parse(block.code)
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(imports, []), page, "exec"), {})


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page}: {' '.join(words)[:60]}" for page, words in COMMANDS]
)
def test_a_command_is_one_that_there_is(page: str, words: list[str]) -> None:
    if words[0] == "privacy-pipeline":
        parse(words[1:])
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
    elif words[1] == "-m":
        assert importlib.util.find_spec(words[2]), words
    else:
        assert (ROOT / words[1]).is_file(), words


def parse(words: list[str]) -> None:
    """Takes the words of a command line as the command would, but for the files and numbers that they name."""
    command: Any = get_command(app)
    context: Any = None
    while hasattr(command, "commands"):
        context = type_of_context(command)(command, info_name=command.name, parent=context)
        assert words and words[0] in command.commands, f"{command.name} has no command {words[:1]}"
        command = command.commands[words[0]]
        command = command.listed.load() if isinstance(command, LazyCommand) else command
        words = words[1:]
    context = type_of_context(command)(command, info_name=command.name, parent=context)
    given, left, _ = command.make_parser(context).parse_args(list(words))
    missing = [param.name for param in command.params if param.required and not given.get(param.name)]
    assert not left and not missing, (left, missing)


def type_of_context(command: Any) -> Any:
    """The class of a command's contexts."""
    return command.context_class


@pytest.mark.parametrize("line", ["rum a.yaml", "run", "run a.yaml --no-such", "budget statuss", "run a.yaml b.yaml"])
def test_a_command_that_there_is_not_is_noticed(line: str) -> None:
    with pytest.raises(Exception):
        parse(line.split())


def test_the_pages_have_blocks_of_each_kind() -> None:
    assert {block.language for _, block in FENCED} >= {"python", "yaml"} and len(COMMANDS) > 60
    assert of_page("docs/architecture.md")
