"""`serve` and `predict` where they cannot work: one line, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.encrypted.transport.certificates import init_parties

RUNNER = CliRunner()


@pytest.fixture
def parties(tmp_path: Path) -> Path:
    init_parties(folder=tmp_path / "parties")
    return tmp_path / "parties"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "x", "--parties", "{parties}"], "privacy-pipeline encrypted serve"),
        (["predict", "x.csv", "--parties", "{parties}"], "privacy-pipeline encrypted predict"),
        (["serve", "--encrypted", "x", "--parties", "{parties}"], "no run 'x'"),
        (["predict", "--encrypted", "x.csv", "--parties", "{parties}"], "architecture.json: No such file"),
        (["encrypted", "serve", "x", "--parties", "{parties}"], "no run 'x'"),
        (["encrypted", "serve", "{empty}", "--parties", "{parties}"], "is not a model for private prediction"),
        (
            ["encrypted", "provide-weights", "{empty}", "--parties", "{parties}"],
            "is not a model for private prediction",
        ),
        (["encrypted", "predict", "x.csv", "--parties", "{parties}"], "architecture.json: No such file"),
    ],
)
def test_what_cannot_work_is_one_line(parties: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = RUNNER.invoke(app, [one.format(parties=parties, empty=empty) for one in arguments])
    assert done.exit_code == 2 and says in done.stderr, done.stderr
    assert done.stderr.count("error:") == 1


@pytest.mark.parametrize("command", [["encrypted", "predict", "x.csv"], ["encrypted", "serve", "{published}"]])
def test_a_model_of_an_earlier_version_is_to_be_exported_again(parties: Path, command: list[str]) -> None:
    published = parties / "published"
    (published / "transform" / "transform_fn").mkdir(parents=True)
    layer = {"name": "d", "op": "dense", "inputs": ["x"], "config": {}, "weights": {"kernel": [2, 1]}}
    earlier = {
        "format": "privacy-pipeline-private-model",
        "version": 1,
        "inputs": [{"name": "x", "shape": [2], "vocabulary": 0}],
        "layers": [layer],
        "output": "d",
        "weights_sha256": "0" * 64,
    }
    (published / "architecture.json").write_text(json.dumps(earlier))
    done = RUNNER.invoke(app, [*(one.format(published=published) for one in command), "--parties", str(parties)])
    assert done.exit_code == 2 and done.stderr.count("error:") == 1
    told = " ".join(done.stderr.split())
    assert "an earlier version exported it" in told and "export the model again" in told


def test_parties_without_addresses_are_named(parties: Path) -> None:
    from privacy_pipeline.encrypted.transport.dialing import addresses
    from privacy_pipeline.errors import BadInputError

    path = parties / "parties.yaml"
    for content, says in (
        ("server0: here\n", "server0: no address"),
        ("a: b: c", "not valid YAML"),
        ("- 1", "holds no mapping at the top level"),
        (path.read_text().replace("driver: 127.0.0.1:27105", "driver: 127.0.0.1:99999"), "driver: no address"),
    ):
        path.write_text(content)
        with pytest.raises(BadInputError, match=says):
            addresses(parties)
    path.unlink()
    with pytest.raises(BadInputError, match="no such file"):
        addresses(parties)


def test_the_old_spelling_names_the_new_one(parties: Path) -> None:
    done = RUNNER.invoke(app, ["serve", "--encrypted", "x", "--parties", str(parties)])
    assert "`serve --encrypted` is `encrypted serve` now" in " ".join(done.stderr.split())
