"""What the encrypted backend leaves beside a model: the network, and its public side without a weight."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.backends.encrypted import PRIVATE_MODEL, PUBLISHED, EncryptedBackend
from privacy_pipeline.encrypted.client import rows
from privacy_pipeline.encrypted.client.client import probabilities
from privacy_pipeline.encrypted.model import model_format, published, reference


def test_the_public_side_predicts_as_the_saved_model_does(split: Any, tmp_path: Path) -> None:
    """The client's way from raw columns to a probability, with the private network in the clear."""
    config = split.config(backend="encrypted", epochs=1, encrypted={"simulate": True})
    EncryptedBackend().train(split.inputs(config, tmp_path, plan=None))
    network = model_format.load(tmp_path / "model" / PRIVATE_MODEL)
    public = published.load(tmp_path / "model" / PUBLISHED)
    assert public.digest == network.digest()
    packed = {value.tobytes() for value in network.weights.values()}
    files = [path.read_bytes() for path in (tmp_path / "model" / PUBLISHED).rglob("*") if path.is_file()]
    as_float32 = {value.astype(np.float32).tobytes() for value in network.weights.values()}
    assert not any(weight in content for content in files for weight in packed | as_float32 if len(weight) > 8)

    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["colour", "size"])
        table.writerows([r["colour"].decode(), "" if r["size"] is None else r["size"]] for r in split.raw)
    inputs = rows.transform(rows.check(file=tmp_path / "rows.csv", published=public), published=public)
    found = probabilities(reference.evaluate(network, inputs)[network.output])
    model = tf.saved_model.load(str(tmp_path / "model"))
    expected = model.signatures["serving_default"](split.serialized())["probability"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
