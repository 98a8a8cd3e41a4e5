"""The checker of words finds what it names, and pre-commit calls it for the files that `make lint` reads."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tools import words


def test_words_in_code_pass_and_words_in_texts_are_found(tmp_path: Path) -> None:
    """A page's prose, a comment and a message are read; code is not. The sentences are wrong on purpose."""
    page = tmp_path / "page.md"
    page.write_text("A run is no promise.\n`is no code`\n```\nis no block\n```\n", encoding="utf-8")
    module = tmp_path / "module.py"
    module.write_text("ready = 1  # begin anew\nerror = f'{ready} tells nothing'\n", encoding="utf-8")
    assert [(line, found) for line, found, _ in words.problems(page)] == [(1, "is no")]
    assert [line for line, *_ in words.problems(module)] == [1, 2]


def test_pre_commit_checks_the_files_that_lint_reads() -> None:
    """Each file that the checker reads by itself is one for which pre-commit calls it."""
    config = yaml.safe_load((words.ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    read = [str(path.relative_to(words.ROOT)) for path in words._files([words.ROOT / name for name in words.READ])]
    assert "types_or" not in hooks["words"]
    assert [name for name in read if not re.search(hooks["words"]["files"], name)] == []
    assert not re.search(hooks["words"]["files"], "tests/docs/test_words.py")
