"""Terminals that cannot encode what is shown, locales that are not UTF-8, and readers that go away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from privacy_pipeline.cli.terminal import FALLBACK, Unbroken

RUN = [sys.executable, "-c", "from privacy_pipeline.cli.main import main; main()"]
ROWS = "hours,kind,late\n" + "".join(f"{i},{'äb'[i % 2]},{('no', 'yes')[i % 3 == 0]}\n" for i in range(60))
PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENVIRONMENTS = {
    "C": {"LC_ALL": "C", **PLAIN},
    "POSIX": {"LC_ALL": "POSIX", "TERM": "dumb", **PLAIN},
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1", "LC_ALL": "C", **PLAIN},
}


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    root = str(Path(__file__).parents[2])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    variables = {**kept, "PYTHONPATH": root, **environment}
    return subprocess.run([*RUN, *arguments], cwd=cwd, env=variables, capture_output=True, timeout=120, check=False)


@pytest.mark.slow_but("C")
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_commands_end_as_ever(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "größe [1]"
    folder.mkdir()
    (folder / "mein.csv").write_text(ROWS, encoding="utf-8")
    for arguments in (["init", "mein.csv", "--label", "late"], ["runs"], ["data", "list"]):
        done = command(*arguments, cwd=folder, **ENVIRONMENTS[name])
        said = done.stdout + done.stderr
        assert b"Traceback" not in said and b"UnicodeEncodeError" not in said, said
        assert done.returncode == 0, said
    assert (folder / "configs/mein.yaml").is_file()


def test_what_lacks_in_the_encoding_is_drawn_in_ascii() -> None:
    assert "✓ done … ┏━┓│ ×".encode("ascii", FALLBACK) == b"ok done ... +-+| x"
    assert "größe €".encode("latin-1", FALLBACK) == "größe ".encode("latin-1") + rb"\u20ac"
    assert "\udce4.csv".encode("utf-8", FALLBACK) == rb"\udce4.csv"


def test_a_reader_that_goes_away_ends_nothing(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as stream:
        unbroken = Unbroken(stream)
        for _ in range(3):
            assert unbroken.write("x" * 100_000) == 100_000
            unbroken.flush()


def test_an_effect_is_made_whoever_reads(tmp_path: Path) -> None:
    (tmp_path / "mein.csv").write_text(ROWS, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [*RUN, "init", "mein.csv", "--label", "late"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        stdout=writes,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "configs/mein.yaml").is_file()


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A line of a shell in which `"$@"` is the command line's program."""
    variables = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    asked = ["bash", "-c", line, "bash", *RUN]
    return subprocess.run(asked, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120, check=False)


def test_output_for_which_there_is_no_room_is_lost_and_the_effect_is_not(tmp_path: Path) -> None:
    (tmp_path / "mein.csv").write_text(ROWS, encoding="utf-8")
    done = shell('"$@" init mein.csv --label late > /dev/full', tmp_path)
    assert (done.returncode, (tmp_path / "configs/mein.yaml").is_file()) == (1, True)
    assert done.stderr.startswith("error: standard output cannot be written (No space left on device); the command")
    assert done.stderr.count("\n") == 2 and "an error of privacy-pipeline itself" not in done.stderr
    refused = shell('"$@" check nothing.yaml --json > /dev/full', tmp_path)
    assert refused.returncode == 2 and "ended with exit code 2" in refused.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_end_no_command(tmp_path: Path, closed: str) -> None:
    (tmp_path / "mein.csv").write_text(ROWS, encoding="utf-8")
    done = shell(f'"$@" init mein.csv --label late {closed}', tmp_path)
    assert (done.returncode, done.stderr, (tmp_path / "configs/mein.yaml").is_file()) == (0, "", True)


def test_no_file_of_ours_becomes_standard_output(tmp_path: Path) -> None:
    opens = (
        "from privacy_pipeline.cli import terminal; terminal.prepare(); "
        "print(open('x', 'w').fileno(), file=open('n', 'w'))"
    )
    done = shell(f'"$1" -c "{opens}" <&- >&- 2>&-', tmp_path)
    assert done.returncode == 0 and int((tmp_path / "n").read_text()) > 2
