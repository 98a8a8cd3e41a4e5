"""The environments of an installed wheel: what their locks hold, when one is whole, who is handed over to it."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tomli

from privacy_pipeline.cli.commands import setup_commands
from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.environments import making, place
from privacy_pipeline.environments.place import KINDS, Kind
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.text import secret_text

ROOT = Path(__file__).resolve().parents[2]
_PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


def locked() -> dict[tuple[str, str], set[str]]:
    """Hashes by name and version, of uv.lock."""
    content = tomli.loads((ROOT / "uv.lock").read_text())
    return {
        (one["name"], one["version"]): {file["hash"] for file in [*one.get("wheels", []), one.get("sdist")] if file}
        for one in content["package"]
        if "registry" in one["source"]
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_holds_versions_and_hashes_of_the_projects_own(kind: Kind) -> None:
    known, text = locked(), place.lock(kind)
    entries = re.split(r"\n(?=[a-z0-9])", text)
    assert len(entries) > 50
    for entry in entries:
        pin = _PIN.match(entry)
        assert pin is not None, entry
        hashes = set(_HASH.findall(entry))
        assert hashes and hashes <= known[(pin[1], pin[2])], entry
    names = {pin[0]: pin[1] for pin in _PIN.findall(text)}
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in (*project["dependencies"], *project["optional-dependencies"][kind]):
        name, _, version = wanted.partition("==")
        assert names[re.split(r"[<>=\[]", name)[0]] == version or not version, wanted


def test_the_installer_is_pinned_by_its_hash() -> None:
    (entry,) = [line for line in place.lock("uv").split("\n\n") if line.strip()]
    assert re.search(r"uv==\S+ \\\n +--hash=sha256:[0-9a-f]{64}$", entry.strip())
    assert "--require-hashes -r $(LOCKS)/uv.txt" in (ROOT / "Makefile").read_text()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(place.VARIABLE, str(tmp_path))
    return tmp_path


def whole(home: Path, kind: Kind, *, stamp: str | None = None) -> Path:
    python = home / kind / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (home / kind / "set-up").write_text(place.digest(kind) if stamp is None else stamp)
    return python


def test_only_a_whole_environment_of_this_version_counts(home: Path) -> None:
    assert place.python("pipeline") is None
    python = whole(home, "pipeline")
    assert place.python("pipeline") == python and place.python("encrypted") is None
    place.stamp_of("pipeline").write_text("an older version")
    assert place.python("pipeline") is None


def test_the_place_follows_the_users_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(place.VARIABLE, raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place.root() == tmp_path / ".local/share/privacy_pipeline/environments"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert place.root() == tmp_path / "data/privacy_pipeline/environments"


def test_a_checkout_is_set_up_by_make(home: Path) -> None:
    assert place.is_checkout()
    for kind, fix in (("pipeline", "make setup"), ("encrypted", "make setup-encrypted")):
        with pytest.raises(BadInputError, match="this is a checkout") as caught:
            making.make(kind, report=print)
        assert caught.value.fix == fix
    assert not list(home.iterdir())


@pytest.fixture
def installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As in the bare wheel: no checkout, no TFX."""
    monkeypatch.setattr(place, "is_checkout", lambda: False)
    monkeypatch.setattr(place, "is_here", lambda kind: False)
    return home


def test_a_command_goes_on_in_the_environment_of_pipelines(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda *given: calls.append(given))
    monkeypatch.setattr(sys, "argv", ["privacy-pipeline", "run", "a b.yaml"])
    setup_commands.hand_over()
    assert calls == []  # there is none
    python = whole(installed, "pipeline")
    setup_commands.hand_over()
    assert calls == [(python, [str(python), str(python.with_name("privacy-pipeline")), "run", "a b.yaml"])]
    monkeypatch.setattr(sys, "argv", ["privacy-pipeline", "setup", "pipeline"])
    setup_commands.hand_over()
    assert len(calls) == 1


def test_a_command_that_needs_a_missing_environment_names_the_command(installed: Path) -> None:
    said = setup_commands.explained()
    assert said is not None and said.fix == "privacy-pipeline setup pipeline"
    with pytest.raises(BadInputError) as caught:
        environment.how_to_set_up
        raise setup_commands.needed()
    assert "needs TFX and TensorFlow" in caught.value.message


def test_a_missing_package_where_tfx_is_here_is_not_explained_away() -> None:
    assert setup_commands.explained() is None


def test_encrypted_inference_takes_the_environment_that_setup_made(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(environment.VARIABLE, raising=False)
    monkeypatch.setattr(environment, "ROOT", tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    planted = tmp_path / ".venv-encrypted" / "bin" / "python"  # the working folder runs no code
    planted.parent.mkdir(parents=True)
    planted.touch()
    with pytest.raises(BadInputError, match="not set up") as caught:
        environment.interpreter()
    assert caught.value.fix == "privacy-pipeline setup encrypted"
    python = whole(installed, "encrypted")
    assert environment.interpreter() == python
    # Its copy of the code is used: the folder of this one's packages must not come before its own.
    assert str(tmp_path / "nowhere") not in environment.variables()["PYTHONPATH"].split(os.pathsep)


def test_a_party_gets_no_password_of_a_database(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole(installed, "encrypted")
    monkeypatch.setattr(secret_text, "_variables", {"PGPASSWORD"})
    secret_text.note_variable("METADATA_PASSWORD")
    for name in ("PGPASSWORD", "METADATA_PASSWORD", "KEPT"):
        monkeypatch.setenv(name, "correct horse")
    variables = environment.variables()
    assert "KEPT" in variables
    assert {"PGPASSWORD", "METADATA_PASSWORD"}.isdisjoint(variables)


def wheel(folder: Path) -> Path:
    """A package of nothing, which needs no index."""
    path = folder / "nothing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("nothing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n")
        archive.writestr(
            "nothing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("nothing-1.0.dist-info/RECORD", "")
    return path


@pytest.mark.parametrize("given", ["right", "wrong", "none"])
def test_a_file_that_is_not_the_one_of_the_lock_is_not_installed(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    uv = ROOT / ".tools" / "uv" / "bin" / "uv"
    if not uv.exists():
        pytest.skip("uv is not here: make setup")
    path = wheel(tmp_path)
    digest = {"right": hashlib.sha256(path.read_bytes()).hexdigest(), "wrong": "0" * 64, "none": ""}[given]
    lock = f"nothing @ {path.as_uri()}" + (f" --hash=sha256:{digest}" if digest else "")
    monkeypatch.setattr(making, "_uv", lambda report: uv)
    monkeypatch.setattr(place, "lock", lambda kind: lock)
    if given == "right":
        assert making.make("encrypted", report=lambda line: None) == place.python("encrypted")
        return
    with pytest.raises(PipelineError, match=r"(?i)hash"):
        making.make("encrypted", report=lambda line: None)
    assert place.python("encrypted") is None


def test_a_reason_is_whole_however_it_is_wrapped(tmp_path: Path) -> None:
    lines = [
        "Resolved 9 packages",
        "error: Failed to read `a`",
        "  cause: Hash mismatch for `",
        *"file",
        "",
        "Computed:",
        "b",
    ]
    program = f"import sys; sys.exit({chr(10).join(lines)!r})"
    with pytest.raises(PipelineError) as caught:
        making._run([sys.executable, "-c", program])
    assert caught.value.message.endswith("error: Failed to read `a` cause: Hash mismatch for ` f i l e Computed: b")
    with pytest.raises(PipelineError, match=r"c d e f g$") as caught:
        making._run([sys.executable, "-c", f"import sys; sys.exit({chr(10).join('abcdefg')!r})"])
    assert " b " not in caught.value.message
