"""A process of the framework looks for no module in the folder that a command was typed in."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import privacy_pipeline
from privacy_pipeline.processes import programs
from privacy_pipeline.processes.programs import command_of, isolate_beam

# What they start calls `die_with_parent` itself.
_ASKING_THEMSELVES = {
    "federated/tff_engine/worker.py",
    "privacy_pipeline/backends/isolated/process.py",
    "privacy_pipeline/encrypted/serving/driver_process.py",
    "privacy_pipeline/encrypted/sandbox/sandbox.py",
    "privacy_pipeline/encrypted/serving/local_parties.py",
    "privacy_pipeline/pipelines/execution/execute.py",
}


@pytest.mark.parametrize("framework", [True, False])
def test_a_users_folder_is_not_imported_from(tmp_path: Path, framework: bool) -> None:
    installed, here = tmp_path / "installed", tmp_path / "here"
    installed.mkdir()
    here.mkdir()
    (installed / "program.py").write_text("import sys, optional\nprint(__name__, optional.WHERE, sys.argv[1:])\n")
    (installed / "optional.py").write_text("WHERE = 'installed'\n")
    (here / "optional.py").write_text("WHERE = 'here'\n")
    command = command_of("program") if framework else [sys.executable, "-m", "program"]
    done = subprocess.run(
        [*command, "an argument"],
        cwd=here,
        env={"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"__main__ {'installed' if framework else 'here'} ['an argument']"


HOSTILE = ("json", "runpy", "multiprocessing", "tensorflow", "sitecustomize", "usercustomize", "pickle", "typer")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A working folder whose modules leave a mark when they are run."""
    for name in HOSTILE:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write('{name} ')\n")
    return tmp_path


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(privacy_pipeline.__file__).parents[1])}


_SPAWNS = """
import multiprocessing, os, sys
sys.path[:] = [path for path in sys.path if path]
from concurrent.futures import ProcessPoolExecutor
from privacy_pipeline.processes.programs import isolate_spawned
isolate_spawned()
isolate_spawned()
if __name__ == "__main__":
    os.chdir(sys.argv[1])
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        print(pool.submit(os.getpid).result() != os.getpid())
"""


@pytest.mark.parametrize("isolated", [True, False])
def test_a_spawned_process_runs_nothing_of_the_working_folder(tmp_path: Path, hostile: Path, isolated: bool) -> None:
    program = tmp_path.parent / f"spawns_{isolated}.py"
    program.write_text(_SPAWNS if isolated else _SPAWNS.replace("isolate_spawned()\n", "\n"))
    done = subprocess.run(
        [sys.executable, str(program), str(hostile)], env=_environment(), capture_output=True, text=True, check=False
    )
    assert (hostile / "ran").exists() != isolated
    assert (done.stdout.strip() == "True") == isolated, done.stderr


def _commands() -> dict[str, list[str]]:
    from privacy_pipeline.encrypted.serving import driving, local_parties

    script = [str(Path(sys.executable).parent / "privacy-pipeline")]
    return {
        "the command": [*script, "--help"],
        "a party": [*local_parties.COMMAND, "--help"],
        "the driver": [*driving.command(Path("none")), "x", "y"],
        "the worker": [*command_of("privacy_pipeline.pipelines.execution.worker")],
        "the trials": [*command_of("privacy_pipeline.backends.trials")],
        "a count": [*command_of("privacy_pipeline.pipelines.registration.count_rows")],
    }


@pytest.mark.parametrize("name", _commands())
def test_no_program_of_ours_runs_what_lies_in_the_working_folder(hostile: Path, name: str) -> None:
    subprocess.run(
        _commands()[name], cwd=hostile, env=_environment(), input=b"", capture_output=True, check=False, timeout=120
    )
    assert not (hostile / "ran").exists(), (hostile / "ran").read_text()


def test_no_worker_of_beams_does(hostile: Path) -> None:
    pytest.importorskip("apache_beam")
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    isolate_beam()
    isolate_beam()
    given = f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
    environment = SubprocessSDKEnvironment.from_command_string(command_string=given)
    command = environment.command_string
    assert shlex.split(command) == command_of("apache_beam.runners.worker.sdk_worker_main")
    assert SubprocessSDKEnvironment.from_command_string("/bin/other").command_string == "/bin/other"


def test_a_program_that_asks_for_nothing_is_killed_with_whoever_started_it(tmp_path: Path) -> None:
    """Of any end: here its parent is killed before it could do anything about it."""
    started = tmp_path / "pid"
    script = f"echo $$ > {started}.new; mv {started}.new {started}; sleep 300"
    parent = (
        "import os, signal, subprocess; from privacy_pipeline.processes.programs import ending_with_us; "
        f"subprocess.Popen(ending_with_us(['sh', '-c', {script!r}]))\n"
        f"while not os.path.exists({str(started)!r}): pass\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", parent], check=False, timeout=60).returncode == -signal.SIGKILL
    state = Path(f"/proc/{started.read_text().strip()}/stat")
    limit = time.monotonic() + 10
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < limit, "it lives on"
        time.sleep(0.01)


def test_every_program_asks_for_that_or_is_made_to() -> None:
    """A child that is started without it would read on where its command was killed."""
    asking = ("die_with_parent", "ending_with_us")
    starting = re.compile(r"subprocess\.(run|Popen)\(|create_subprocess_exec\(")
    root = Path(programs.__file__).parents[1]
    found = [path for folder in (root, root.parent / "federated") for path in folder.rglob("*.py")]
    silent = {
        str(path.relative_to(root.parent))
        for path in found
        if starting.search(path.read_text()) and not any(word in path.read_text() for word in asking)
    }
    assert silent == _ASKING_THEMSELVES
