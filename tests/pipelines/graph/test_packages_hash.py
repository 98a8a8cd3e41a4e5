"""A run is bound to the versions of all packages that it uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.graph import cache_keys
from privacy_pipeline.processes import installed
from tests.pipelines.projects import write_project


def test_names_versions_and_python_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b-2.0.dist-info", "a-1.0.dist-info", "no_package"):
        (tmp_path / name).mkdir()
    assert installed.distributions(tmp_path) == ["a-1.0.dist-info", "b-2.0.dist-info"]
    monkeypatch.setattr(installed.sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    before = installed.environment_hash()
    (tmp_path / "a-1.0.dist-info").rename(tmp_path / "a-1.1.dist-info")
    upgraded = installed.environment_hash()
    monkeypatch.setattr(installed.platform, "python_version", lambda: "3.99.0")
    assert len({before, upgraded, installed.environment_hash()}) == 3


def test_encrypted_inference_counts_its_own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_project(tmp_path)
    python = tmp_path / "env/bin/python"
    packages = tmp_path / "env/lib/python3.10/site-packages"
    python.parent.mkdir(parents=True)
    python.touch()
    (packages / "tf_encrypted-1.dist-info").mkdir(parents=True)
    monkeypatch.setenv(environment.VARIABLE, str(python))
    assert cache_keys.packages_hash(config) == installed.environment_hash()
    section = {"train_with": "plain"}
    encrypted = write_project(tmp_path / "other", training={"backend": "encrypted", "encrypted": section})
    before = cache_keys.packages_hash(encrypted)
    (packages / "tf_encrypted-1.dist-info").rename(packages / "tf_encrypted-2.dist-info")
    assert len({before, cache_keys.packages_hash(encrypted), installed.environment_hash()}) == 3
    python.unlink()
    with pytest.raises(BadInputError, match="there is no such file"):
        cache_keys.packages_hash(encrypted)
