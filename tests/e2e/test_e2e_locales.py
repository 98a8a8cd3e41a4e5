"""The demo's commands in every locale and in folders of every kind of name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import CLI

if TYPE_CHECKING:
    from tests.e2e.conftest import Project

NAMES = {
    "plain": "project",
    "blanks": " my  project ",
    "brackets": "my [v2] *? #1 50% \\n 'q' \"d\" {b} $HOME",
    "non-ascii": "größe 日本 🙂",
    "long": "x" * 200,
}
_AS_IT_IS = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
LOCALES = {
    "C": {"LC_ALL": "C", **_AS_IT_IS},
    "C.UTF-8": {"LC_ALL": "C.UTF-8", **_AS_IT_IS},
    "latin-1": {"LC_ALL": "en_US.ISO-8859-1", **_AS_IT_IS},
}


@pytest.fixture(scope="session")
def latin_1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A locale in Latin-1: made here, or told to Python alone where the system has no sources of locales."""
    folder = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")]
    if shutil.which("localedef") and subprocess.run(command, capture_output=True, check=False).returncode == 0:
        return {"LOCPATH": str(folder)}
    return {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"}


def _in(project: Project, name: str) -> Path:
    """The project, moved to a folder of that name."""
    folder = project.root.parent / f"of-{project.root.name}" / name
    folder.parent.mkdir()
    shutil.move(project.root, folder)
    return folder


def _run(folder: Path, environment: dict[str, str], *words: str) -> str:
    """What a command prints; it has to end with 0, and without a traceback."""
    given = {**os.environ, **environment}
    ended = subprocess.run([CLI, *words], cwd=folder, env=given, capture_output=True, timeout=1500, check=False)
    said = (ended.stdout + ended.stderr).decode(errors="backslashreplace")
    assert ended.returncode == 0, said
    assert "Traceback" not in said
    return ended.stdout.decode(errors="backslashreplace")


def _environment(locale: str, latin_1: dict[str, str]) -> dict[str, str]:
    return LOCALES[locale] | (latin_1 if locale == "latin-1" else {})


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("locale", LOCALES)
def test_the_demo_ends_with_0(
    new_project: Callable[[], Project], latin_1: dict[str, str], locale: str, name: str
) -> None:
    folder, environment = _in(new_project(), NAMES[name]), _environment(locale, latin_1)
    _run(folder, environment, "budget", "register", "configs/dp.yaml", "--epsilon", "10", "--delta", "1e-5")
    _run(folder, environment, "run", "configs/plain.yaml")
    _run(folder, environment, "run", "configs/dp.yaml")
    _run(folder, environment, "diff", "adult-plain", "adult-dp")
    _run(folder, environment, "show", "adult-dp")
    listed: list[dict[str, Any]] = json.loads(_run(folder, environment, "runs", "--json"))
    assert [run["status"] for run in listed] == ["done", "done"]
    shown = json.loads(_run(folder, environment, "show", "adult-dp", "--json"))
    assert Path(shown["summary"]["model_uri"]).is_relative_to(folder / "workspace")
    assert (Path(shown["summary"]["model_uri"]) / "saved_model.pb").is_file()
    again = _run(folder, environment, "run", "configs/dp.yaml")
    assert "nothing changed since run" in again
    attacked = json.loads(_run(folder, environment, "audit", "adult-dp", "--attack", "--json"))
    assert attacked["attacks"][0]["members"] == 1_200
    _run(folder, environment, "budget", "verify")


@pytest.mark.parametrize(("locale", "name"), [("C", "brackets"), ("latin-1", "non-ascii")])
def test_commands_that_start_no_run_end_with_0(
    new_project: Callable[[], Project], latin_1: dict[str, str], locale: str, name: str
) -> None:
    folder, environment = _in(new_project(), NAMES[name]), _environment(locale, latin_1)
    (folder / "my [1] größe.csv").write_text("hours,load,late\n" + "1,2.5,yes\n2,0.5,no\n" * 20)
    _run(folder, environment, "init", "my [1] größe.csv", "--label", "late", "--name", "own")
    _run(folder, environment, "check", "configs/own.yaml")
    _run(folder, environment, "budget", "register", "configs/dp.yaml", "--epsilon", "10", "--delta", "1e-5")
    for words in (["budget", "status"], ["budget", "history"], ["budget", "verify"], ["runs"], ["data", "list"]):
        _run(folder, environment, *words)
    assert (folder / "ledger/ledger_key.pem").is_file()
