"""How commands end: message, fix, exit code, as text and as JSON."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import typer

from privacy_pipeline.cli import output
from privacy_pipeline.cli.commands.run_commands import _finish
from privacy_pipeline.errors import BadInputError, BudgetRefusedError, PipelineError
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from tests.cli.test_tables import make_state
from tests.reports.records import dp_record, make_summary


def end_with(error: BaseException, *, as_json: bool) -> int:
    with pytest.raises(typer.Exit) as caught, output.errors_as_exit_codes(as_json=as_json):
        raise error
    return caught.value.exit_code


ERRORS = [
    (PipelineError("broken", fix="mend it"), 1),
    (BadInputError("bad [red]input[/]", fix="write [x]"), 2),
    (BudgetRefusedError("refused", fix="ask"), 4),
]


@pytest.mark.parametrize(
    ("error", "told"), [(PipelineError("broken"), True), (BadInputError("bad"), False)], ids=["broken", "bad input"]
)
def test_an_error_after_a_run_was_started_says_how_to_go_on(
    error: PipelineError, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Input that is bad is corrected first, and is another run's then."""
    with pytest.raises(typer.Exit), output.errors_as_exit_codes(as_json=False, resume=lambda: "resume run-1"):
        raise error
    assert ("resume: resume run-1" in capsys.readouterr().err) == told
    with pytest.raises(typer.Exit), output.errors_as_exit_codes(as_json=False, resume=lambda: ""):
        raise error
    assert "resume" not in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors_as_text_go_to_standard_error(
    error: PipelineError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_with(error, as_json=False) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"error: {error.message}" in captured.err  # brackets of a message are no markup
    assert f"fix: {error.fix}" in captured.err


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors_as_json_go_to_standard_output(
    error: PipelineError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_with(error, as_json=True) == code
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": error.message, "fix": error.fix, "exit_code": code}
    assert captured.err == ""


def test_an_interrupt_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert end_with(KeyboardInterrupt(), as_json=False) == 1
    assert "interrupted" in capsys.readouterr().err


def test_a_full_disk_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert end_with(OSError(errno.ENOSPC, "No space left on device", "/w/run.json"), as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert "/w/run.json" in found["error"] and "No space left" in found["error"] and "free space" in found["fix"]


def test_an_interrupted_run_names_the_command_that_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), output.errors_as_exit_codes(as_json=False, resume=lambda: "resume run-1"):
        raise KeyboardInterrupt
    assert "resume run-1" in capsys.readouterr().err


def test_our_own_bugs_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), output.errors_as_exit_codes(as_json=True):
        raise ZeroDivisionError


def test_long_messages_are_not_broken_into_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.tell(message="m" * 500, fix="f" * 500, exit_code=1, as_json=False)
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


@pytest.mark.parametrize(("reasons", "budget", "code"), [(["auc"], [], 3), (["auc", "policy"], ["policy"], 4)])
def test_a_refusal_by_policy_or_ledger_ends_with_4_one_by_quality_with_3(
    tmp_path: Path, reasons: list[str], budget: list[str], code: int
) -> None:
    folder = RunFolder(tmp_path)
    state = make_state(status="not_blessed")
    folder.write_state(state)
    folder.write_summary(make_summary(dp_record(), blessed=False, reasons=reasons, budget_reasons=budget))
    with pytest.raises(typer.Exit) as ended:
        _finish(folder, state, as_json=False)
    assert ended.value.exit_code == code
