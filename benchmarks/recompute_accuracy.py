"""Recompute a pushed model's accuracy with TensorFlow alone, from the raw examples.

    python benchmarks/recompute_accuracy.py MODEL_DIR EXAMPLES_DIR LABEL POSITIVE_CLASS

MODEL_DIR is a pushed SavedModel, EXAMPLES_DIR a folder of gzipped TFRecord files with raw tf.Examples (the eval split
below ExampleGen's `examples`). Imports nothing of this project: what the pipeline states must hold without it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tensorflow as tf


def accuracy(*, model_dir: str, examples_dir: str, label: str, positive: str) -> tuple[float, int]:
    """Return the share of examples whose probability is on the label's side of 0.5, and the number of examples."""
    predict = tf.saved_model.load(model_dir).signatures["serving_default"]
    name = next(iter(predict.structured_input_signature[1]))
    files = sorted(str(path) for path in Path(examples_dir).glob("*.gz"))
    right = total = 0
    for batch in tf.data.TFRecordDataset(files, compression_type="GZIP").batch(1024):
        parsed = tf.io.parse_example(batch, {label: tf.io.FixedLenFeature([], tf.string)})
        truth = tf.equal(parsed[label], positive)
        guess = predict(**{name: batch})["probability"][:, 0] > 0.5
        right += int(tf.reduce_sum(tf.cast(tf.equal(truth, guess), tf.int32)))
        total += len(batch)
    return right / total, total


if __name__ == "__main__":
    value, rows = accuracy(model_dir=sys.argv[1], examples_dir=sys.argv[2], label=sys.argv[3], positive=sys.argv[4])
    print(json.dumps({"accuracy": value, "rows": rows}))
