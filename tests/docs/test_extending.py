"""The examples of docs/extending.md, in a copy of the source tree and with the page's code blocks alone."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def sections():
    """Headings of the page that have blocks, with (language, title, text) of each."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:]
    return {title: BLOCK.findall(text) for title, text in zip(parts[::2], parts[1::2]) if BLOCK.search(text)}


def apply(copy: Path, language: str, title: str, text: str) -> None:
    """Write a new file, or put the lines marked with + behind the one that they follow."""
    file = copy / title
    if language != "diff":
        assert not file.exists(), f"{title} is there already"
        file.write_text(text)
        return
    before = "".join(line[1:] for line in text.splitlines(keepends=True) if line[0] != "+")
    after = "".join(line[1:] for line in text.splitlines(keepends=True))
    content = file.read_text()
    assert content.count(before) == 1, f"the page shows lines of {title} that it does not have"
    file.write_text(content.replace(before, after))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What an example finds in a fresh clone."""
    for folder in ("privacy_pipeline", "federated", "tests", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(copy: Path, command: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(copy), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=1000, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def cases():
    """Sections of the page; slow where one runs a suite of tests."""
    for title, blocks in sections().items():
        suite = any(language == "sh" for language, _, _ in blocks)
        yield pytest.param(title, marks=[pytest.mark.slow] if suite else [])


@pytest.mark.parametrize("title", cases())
def test_an_example_works_in_a_copy_of_the_source_with_nothing_but_its_blocks(title, copy):
    for language, name, text in sections()[title]:
        if name:
            apply(copy, language, name, text)
    script = "\n".join(text for language, name, text in sections()[title] if language == "python" and not name)
    assert "assert" in script
    guard = f"import federated, privacy_pipeline\nassert federated.__file__.startswith({str(copy)!r})\n"
    (copy / "example.py").write_text(guard + script)
    run(copy, [sys.executable, "example.py"])
    for language, _, text in sections()[title]:
        if language == "sh":
            program, *arguments = shlex.split(text)
            assert program == "python"
            run(copy, [sys.executable, *arguments])


@pytest.mark.parametrize("title", sections())
def test_an_example_adds_one_module_and_one_line(title):
    changes = [(language, text) for language, name, text in sections()[title] if name and not name.startswith("tests/")]
    assert [language for language, _ in changes] == ["python", "diff"]
    assert sum(line.startswith("+") for line in changes[1][1].splitlines()) == 1


def test_a_page_that_shows_other_lines_than_the_files_is_noticed(tmp_path):
    (tmp_path / "file.py").write_text("a = 1\nb = 2\n")
    apply(tmp_path, "diff", "file.py", " a = 1\n+c = 3\n")
    assert (tmp_path / "file.py").read_text() == "a = 1\nc = 3\nb = 2\n"
    with pytest.raises(AssertionError, match="does not have"):
        apply(tmp_path, "diff", "file.py", " d = 4\n+e = 5\n")
