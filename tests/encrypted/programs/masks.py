"""Small masks before and after they are mended, and what happens without the native random module."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import tensorflow as tf
from networks import mlp
from tf_encrypted.operations.secure_random import secure_random
from tf_encrypted.tensor import factories

from privacy_pipeline.encrypted.worker import secure_aby3
from privacy_pipeline.encrypted.worker.predictor import build, local_config
from privacy_pipeline.errors import PipelineError

DTYPES = (tf.int8, tf.int16, tf.int32)
COUNT = 65536


def masks() -> dict[str, Any]:
    found = {}
    for dtype in DTYPES:
        drawn = factories[dtype].sample_seeded_uniform([COUNT], secure_random.secure_seed()).value.numpy()
        again = factories[dtype].sample_uniform([COUNT]).value.numpy()
        counts = np.bincount(drawn.view(np.uint8), minlength=256)
        found[dtype.name] = {
            "distinct": len(np.unique(drawn)),
            "distinct_unseeded": len(np.unique(again)),
            "low": int(drawn.min()) - dtype.min,
            "high": dtype.max - int(drawn.max()),
            "chi_square_of_bytes": float(((counts - counts.mean()) ** 2 / counts.mean()).sum()),
        }
    return found


def refusal(prepare: Any) -> str:
    shared = []
    original = secure_aby3.SecureABY3._share

    def count(*given: Any, **named: Any) -> Any:
        found = original(*given, **named)
        shared.append(found)
        return found

    secure_aby3.SecureABY3._share = count
    try:
        prepare()
        return "not refused"
    except PipelineError as error:
        return f"{error.message}; shared {len(shared)}"
    finally:
        secure_aby3.SecureABY3._share = original


def main() -> None:
    stock = masks()
    secure_aby3.mend_small_integers()
    mended = masks()
    secure_aby3.mend_small_integers()
    model = mlp([3, 2, 1])
    original = secure_random.secure_random_module
    protocol = secure_aby3.activate(local_config())
    secure_random.secure_random_module = None
    refused = {
        "from the start": refusal(lambda: build(model, 1, local_config())),
        "lost later": refusal(lambda: build(model, 1, local_config(), protocol=protocol)),
    }
    secure_random.secure_random_module = original
    seed = secure_random.secure_seed
    constant = seed()
    secure_random.secure_seed, keep = (lambda name=None: constant), seed
    secure_aby3.secure_random.secure_seed = secure_random.secure_seed
    refused["constant keys"] = refusal(lambda: build(model, 1, local_config()))
    secure_random.secure_seed = secure_aby3.secure_random.secure_seed = keep
    refused["nothing wrong"] = refusal(lambda: build(model, 1, local_config()))
    print(json.dumps({"stock": stock, "mended": mended, "refused": refused}))


main()
