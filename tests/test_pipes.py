"""A pipe, a device or a circle of links in the place of a file is refused, or read in bounds; never waited for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federated.experiments.config import load_experiment
from privacy_pipeline.config.loader import load_config
from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.data import files, private_copy
from privacy_pipeline.data.reading import csv_rows, tfrecord
from privacy_pipeline.data.schema.schema_reader import schema_bytes
from privacy_pipeline.data.starting.starter import write_starter
from privacy_pipeline.encrypted.transport import certificates
from privacy_pipeline.encrypted.transport.identities import Peer, Revocations
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files import bounded
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.audit.receipts import read_receipts
from privacy_pipeline.ledger.copies import backup
from privacy_pipeline.ledger.state.policy import load_policy
from privacy_pipeline.ledger.storage import keys
from privacy_pipeline.reports.dataset.facts import load_facts

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bounded, "_PATIENCE_SECONDS", 0.05)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pipe").chmod(0o600)
    return tmp_path / "pipe"


def _backup(path: Path) -> None:
    with backup.opened(path):
        raise AssertionError("it was opened")


def _resolved(path: Path) -> files.ResolvedSource:
    names = {"name": "d", "schema": "s.pbtxt", "label": "y", "positive_class": "1"}
    data = {"path": path.parent, "input": path.name, "hash_split": {"train": 4, "eval": 1}}
    dataset = {**names, **data}
    return files.resolve(dataset=DatasetConfig.model_validate(dataset))


READERS: dict[str, Callable[[Path], Any]] = {
    "config": load_config,
    "policy": load_policy,
    "facts": load_facts,
    "experiment": load_experiment,
    "schema": schema_bytes,
    "receipt": lambda path: read_receipts([path]),
    "pin": lambda path: pins.pinned([path.rename(path.with_name(pins.FILE)).parent]),
    "public key": keys.read_public,
    "private key": keys.load_any,
    "certificate": certificates.require_current,
    "list of the revoked": lambda path: Revocations(path.rename(path.with_name("revoked.pem")).parent).require_valid(
        Peer(role="driver", name="driver", serial="1")
    ),
    "backup": _backup,
    "dataset": _resolved,
    "header": lambda path: csv_rows.read_header(file=path),
    "rows": lambda path: list(csv_rows.rows(file=path)),
    "TFRecord": lambda path: list(tfrecord.records(file=path)),
    "init": lambda path: write_starter(csv=path, folder=path.parent / "made", label="y"),
}


@pytest.mark.parametrize("reader", READERS)
def test_nobody_waits_for_a_pipe_into_which_nobody_writes(reader: str, pipe: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        READERS[reader](pipe)
    assert (str(pipe.parent) in caught.value.message and "pipe" in caught.value.message.replace(str(pipe), "")) or (
        "is not a regular file" in caught.value.message
    )


@pytest.mark.parametrize("reader", sorted(READERS.keys() - {"pin", "list of the revoked"}))
def test_links_that_lead_round_in_a_circle_are_one_line(reader: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((PipelineError, OSError), match=r"Too many levels|no files|no such file"):
        READERS[reader](tmp_path / "loop")


def test_what_a_program_writes_into_a_pipe_is_read(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "_PATIENCE_SECONDS", 30.0)
    with subprocess.Popen(["sh", "-c", 'sleep 0.2; printf "a: 1\\n" > "$0"; ', str(pipe)]):
        assert bounded.read_bounded(pipe, most=100) == b"a: 1\n"


def test_a_device_ends_where_such_a_file_does() -> None:
    with pytest.raises(PipelineError, match="is larger than 4 KiB"):
        bounded.read_bounded(Path("/dev/zero"), most=1 << 12)
    with pytest.raises(PipelineError, match="is not a regular file"):
        bounded.open_plain(Path("/dev/zero"))


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_file_that_becomes_one_before_it_is_copied(
    put: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data.csv"
    data.write_text("a,y\n1,0\n")
    found = _resolved(data)
    size = private_copy._size

    def swapped(path: Path) -> int:
        known = size(path)
        path.unlink()
        put(path)
        return known

    monkeypatch.setattr(private_copy, "_size", swapped)
    with (
        pytest.raises(PipelineError, match=r"data\.csv: is not a regular file"),
        private_copy.taken(found, below=tmp_path / "copies"),
    ):
        raise AssertionError("it was copied")
    assert not [path for path in (tmp_path / "copies").rglob("*") if path.name != "lock"]
