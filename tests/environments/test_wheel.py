"""A stranger's way: pip, `setup` and `demo`, in an empty home outside of the clone."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tools.references.python_api import FACES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_wheel_sets_itself_up_and_runs_the_demo(tmp_path: Path) -> None:
    uv = ROOT / ".tools" / "uv" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("uv is not here: make setup")
    kept = {name: os.environ[name] for name in os.environ if name.startswith(("PIP_", "UV_INDEX", "SSL_"))}
    home, project = tmp_path / "home", tmp_path / "my project"
    for folder in (home, project):
        folder.mkdir()
    environment = {**kept, "HOME": str(home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}

    def run(*words: str | Path, code: int = 0) -> str:
        ended = subprocess.run(
            [str(word) for word in words], cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    subprocess.run([uv, "build", "--wheel", "--quiet", "--out-dir", tmp_path / "dist", ROOT], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"privacy_pipeline/py.typed", "federated/py.typed"} <= held
    assert {f"{face.replace('.', '/')}/__init__.pyi" for face in FACES} <= held
    venv.EnvBuilder(with_pip=True, symlinks=True).create(tmp_path / "venv")
    command = tmp_path / "venv" / "bin" / "privacy-pipeline"
    run(tmp_path / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    assert "privacy-pipeline setup pipeline" in run(command, "demo", code=2)
    assert "installing" in run(command, "setup", "pipeline")
    assert "is set up in" in run(command, "setup", "pipeline")
    assert "adult-dp-sgd" in run(command, "demo")
    assert (project / "data" / "adult" / "provenance.json").exists()
    assert str(ROOT) not in run(command, "doctor")
    assert sys.version_info[:2] == (3, 10)
