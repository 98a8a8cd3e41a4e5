"""Fixtures of tests that play another user of the host, or its faults."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts.project import Project, write_project

OTHER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture(scope="session")
def as_other() -> list[str]:
    """A command's prefix that runs the host's Python as another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin")
    prefix = [*OTHER, python or "python3", "-I"]
    try:
        subprocess.run([*prefix, "-c", ""], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no Python of the host's that another user can run with setpriv: {error}")
    return prefix


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Callable[[], Path]]:
    """Makes folders that every user may enter, as a home on many hosts; removed at the end."""
    made: list[Path] = []

    def make() -> Path:
        folder = Path(tempfile.mkdtemp(prefix="project-", dir="/var/tmp"))
        folder.chmod(0o755)
        made.append(folder)
        return folder

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project in which nothing was run; `config.yaml` is a DP-SGD training."""
    root = tmp_path / "project"
    root.mkdir()
    write_project(root)
    return Project(root)


@pytest.fixture(scope="session")
def can_mount() -> None:
    """Skips where this user may not mount in a namespace of its own."""
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        done = subprocess.run(probe, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode != 0:
        pytest.skip("no user namespaces with mounts here")
