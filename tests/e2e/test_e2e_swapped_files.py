"""The swap against the real worker: the file is exchanged when all checks are over, and put back after ExampleGen."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.data.reading.tfrecord import masked_crc32c, records
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.pipelines.execution import runs
from privacy_pipeline.pipelines.execution.events import NodeEnded
from privacy_pipeline.pipelines.registration.register import register_dataset
from tests.pipelines.projects import write_project, write_spans

pytestmark = pytest.mark.slow  # each starts TFX in a process of its own


def _as_records(file: Path, *, packed: bool) -> Path:
    """A CSV file of rows as one of serialized Examples beside it."""
    import tensorflow as tf

    header, *lines = file.read_text().splitlines()
    content = b""
    for line in lines:
        cells = dict(zip(header.split(","), line.split(","), strict=True))
        kinds = {
            "colour": tf.train.Feature(bytes_list=tf.train.BytesList(value=[cells["colour"].encode()])),
            "bought": tf.train.Feature(bytes_list=tf.train.BytesList(value=[cells["bought"].encode()])),
            "size": tf.train.Feature(float_list=tf.train.FloatList(value=[float(cells["size"])])),
            "person": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(cells["person"])])),
        }
        record = tf.train.Example(features=tf.train.Features(feature=kinds)).SerializeToString(deterministic=True)
        length = struct.pack("<Q", len(record))
        content += length + struct.pack("<I", masked_crc32c(length)) + record
        content += struct.pack("<I", masked_crc32c(record))
    made = file.with_suffix(".tfrecord.gz" if packed else ".tfrecord")
    made.write_bytes(gzip.compress(content) if packed else content)
    file.unlink()
    return made


@pytest.mark.parametrize("kind", ["csv", "spans", "tfrecord", "tfrecord.gz", "charged"])
def test_the_swap_reaches_no_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    section: dict[str, Any] = {"format": "tfrecord"} if "tfrecord" in kind else {}
    if kind == "spans":
        section = {"span": (1, 2)}
    config = write_project(tmp_path, backend="dp_sgd" if kind == "charged" else "plain", dataset=section)
    if kind == "spans":
        write_spans(tmp_path, 1, 2)
    files = sorted((tmp_path / "data").glob("span-*/*/rows.csv"))
    bad = []
    for file in files:
        text = file.read_text()
        if "tfrecord" in kind:
            file.write_text(text.replace("red", "blue"))
            bad.append(_as_records(file, packed=kind.endswith("gz")).read_bytes())
            file.write_text(text)
            _as_records(file, packed=kind.endswith("gz"))
        else:
            bad.append(text.replace("red", "blue").encode())
    if "tfrecord" in kind:
        files = sorted((tmp_path / "data").glob("span-*/*/rows.tf*"))
    good = [file.read_bytes() for file in files]
    if kind == "charged":
        register_dataset(config=config, epsilon=1000.0, delta=1e-5)

    def swap(contents: list[bytes]) -> None:
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)

    def on_event(event: Any, state: Any) -> None:
        if isinstance(event, NodeEnded) and event.node == "ExampleGen":
            swap(good)

    _, state = runs.start(
        config=config,
        config_path=Path("c.yaml"),
        from_nodes=[],
        to_nodes=[] if kind == "charged" else ["ExampleGen"],
        on_start=lambda folder: swap(bad),
        on_event=on_event,
    )
    assert state.failure is None
    made = [one for one in (tmp_path / "workspace/pipelines").glob("things/ExampleGen/examples/*/Split-*/*")]
    rows = b"".join(record for file in made for record in records(file=file))
    assert rows.count(b"red") > 0
    if kind == "charged":
        assert [entry.state.value for entry in Ledger.open(config.ledger).entries("things")] == ["committed"]
