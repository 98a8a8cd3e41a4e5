"""An exception that nobody foresaw ends in one line, a log and exit code 1; `--debug` shows it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.errors import BadInputError

START = "from privacy_pipeline.cli import last_handler\nfrom privacy_pipeline import errors\ndef command():\n    "


def ended(body: str, folder: Path, *arguments: str, **more: str) -> Any:
    environment = {**os.environ, "TMPDIR": str(folder), **more}
    environment.pop("PRIVACY_PIPELINE_DEBUG", None)
    environment |= more
    script = START + body + "\nlast_handler.run(command)"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ZeroDivisionError('by nothing')", "ZeroDivisionError: by nothing"),
        ("raise AssertionError", "AssertionError"),
        ("raise UnicodeError('a\\n\\x1b[31mb' + 'c' * 5000)", "UnicodeError: a  [31mb"),
        ("[0][1]", "IndexError: list index out of range"),
        ("raise MemoryError", "MemoryError"),
        ("def f(): f()\n    f()", "RecursionError: maximum recursion depth exceeded"),
        ("raise type('PanicException', (BaseException,), {})('of Rust')", "PanicException: of Rust"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})()", "Mute"),
    ],
)
def test_one_line_a_log_and_exit_one(body: str, said: str, tmp_path: Path) -> None:
    told = ended(body, tmp_path)
    (log,) = tmp_path.glob("privacy-pipeline-error-*.log")
    assert told.returncode == 1 and told.stderr.startswith(f"error: {said}") and len(told.stderr) < 2000
    assert str(log) in told.stderr and "Traceback" not in told.stderr and told.stderr.count("\n") == 2
    assert "Traceback" in log.read_text() and stat.S_IMODE(log.stat().st_mode) == 0o600


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    for told in (
        ended("raise KeyError(1)", tmp_path, "--debug"),
        ended("raise KeyError(1)", tmp_path, PRIVACY_PIPELINE_DEBUG="1"),
    ):
        assert told.returncode == 1 and "Traceback" in told.stderr and "KeyError: 1" in told.stderr
    assert not list(tmp_path.glob("*.log"))


def test_debug_is_taken_from_the_command_and_exit_codes_stay(tmp_path: Path) -> None:
    told = ended("import sys; print(sys.argv[1:]); sys.exit(3)", tmp_path, "--debug", "run", "--debug")
    assert told.returncode == 3 and told.stdout.strip() == "['run', '--debug']"


def test_an_error_of_ours_keeps_its_code_and_fix(tmp_path: Path) -> None:
    told = ended("raise errors.BadInputError('c.yaml: bad', fix='good')", tmp_path)
    assert told.returncode == int(BadInputError.exit_code)
    assert told.stderr == "error: c.yaml: bad\n  fix: good\n" and not list(tmp_path.glob("*.log"))
    assert ended("raise errors.PipelineError('odd')", tmp_path).stderr == "error: odd\n"


def test_without_a_place_for_a_log_it_still_ends_in_a_line(tmp_path: Path) -> None:
    body = "import tempfile\n    tempfile.mkstemp = lambda **_: open('/nowhere/at/all')\n    raise KeyError('x')"
    told = ended(body, tmp_path)
    assert told.returncode == 1 and "none: no temporary file" in told.stderr and "Traceback" not in told.stderr


def test_a_disk_without_room_for_the_log_leaves_none(tmp_path: Path) -> None:
    body = "import resource\n    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n    raise KeyError('x')"
    told = ended("import signal\n    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n    " + body, tmp_path)
    assert told.returncode == 1 and "none: no temporary file" in told.stderr and "Traceback" not in told.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("body", "error", "code"),
    [
        ("raise KeyError('\\u202e')", "KeyError: '\\u202e' (an error", 1),
        ("raise errors.BadInputError('c.yaml: bad', fix='good')", "c.yaml: bad", 2),
        ("raise KeyboardInterrupt", "interrupted", 1),
    ],
)
def test_json_is_told_in_json(body: str, error: str, code: int, tmp_path: Path) -> None:
    told = ended(body, tmp_path, "--json")
    found = json.loads(told.stdout)
    assert told.returncode == found["exit_code"] == code and found["error"].startswith(error) and not told.stderr
    assert ended(body, tmp_path).stderr.startswith("error: ")
