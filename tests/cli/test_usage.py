"""Arguments that a command does not take: one line, the next command, and nothing that commands a terminal."""

from __future__ import annotations

import json

import pytest

from privacy_pipeline.cli import main


def told(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["privacy-pipeline", *words])
    with pytest.raises(SystemExit) as ended:
        main._command()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("words", "message", "fix"),
    [
        (["run", "--nope"], "No such option: --nope", "run --help"),
        (["budget", "registr"], "No such command 'registr'. Did you mean 'register'", "budget --help"),
        (["run"], "Missing argument 'CONFIG'.", "run --help"),
        (["runs", "--workspace"], "Option '--workspace' requires an argument.", "--help"),
        (["budget", "forecast", "c.yaml", "--runs", "many"], "'--runs'", "budget forecast --help"),
    ],
)
def test_a_wrong_argument_is_named_with_the_next_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str, fix: str
) -> None:
    assert told(monkeypatch, *words) == 2
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert lines[0].startswith("error: ") and message in lines[0] and lines[1:] == [f"  fix: privacy-pipeline {fix}"]
    assert shown.out == ""


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\u202e", "\u200b", "\x07", "[red]", "x" * 5_000])
@pytest.mark.parametrize("place", ["run", "runs", ""])
def test_a_hostile_argument_is_shown_and_not_obeyed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], hostile: str, place: str
) -> None:
    assert told(monkeypatch, *filter(None, [place, f"--a{hostile}b" if place else f"a{hostile}b"])) == 2
    shown = capsys.readouterr().err
    assert hostile not in shown or hostile == "[red]"
    assert len(shown) < 2_000


def test_a_script_gets_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(monkeypatch, "runs", "--json", "--nope") == 2
    assert json.loads(capsys.readouterr().out) == {
        "error": "No such option: --nope",
        "fix": "privacy-pipeline runs --help",
        "exit_code": 2,
    }


def test_a_group_alone_prints_its_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(monkeypatch, "budget") == 2
    shown = capsys.readouterr()
    assert "register" in shown.out and "error:" not in shown.err
    assert told(monkeypatch, "--help") == 0
