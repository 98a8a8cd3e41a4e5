"""Program of the build: runs a user's functions and answers with what crosses (`frames`). No data is within its reach.

It answers on what was its standard output; what the user's code prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from privacy_pipeline.backends.isolated import frames
from privacy_pipeline.backends.isolated.process import TASK
from privacy_pipeline.errors import PipelineError

REFUSED, RAISED = "refused", "raised"


def main() -> None:
    """Run the program."""
    answer = os.dup(1)
    os.dup2(2, 1)
    task = json.loads(Path(TASK).read_text())
    sys.excepthook = _telling(answer, set(task["sources"]))
    kinds: dict[str, Callable[[dict[str, Any]], bytes]] = {"model": _model, "preprocessing": _preprocessing}
    _write(answer, kinds[task["kind"]](task))


def _write(answer: int, content: bytes) -> None:
    with os.fdopen(answer, "wb") as stream:
        stream.write(content)
    os._exit(0)  # what the user's code started does not hold up the answer


def _telling(answer: int, sources: set[str]) -> Callable[[type[BaseException], BaseException, Any], None]:
    """Return the hook that reports an uncaught error."""

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, PipelineError):
            _write(answer, frames.pack({REFUSED: [error.message, error.fix]}))
        frames_of_users = [one for one in traceback.extract_tb(trace) if one.filename in sources]
        place = frames_of_users[-1] if frames_of_users else None
        where = "" if place is None else f"{Path(place.filename).name}, line {place.lineno}"
        said = "".join(traceback.format_exception_only(kind, error)).strip().splitlines()
        _write(answer, frames.pack({RAISED: [said[-1] if said else kind.__name__, where]}))

    return tell


def _code(task: Mapping[str, Any]) -> Any:
    from privacy_pipeline.backends.models import user_code

    code = user_code.resolve(task["use"])
    user_code.require_as_read(code, use=task["use"], defined=task["defined"])
    return code


def _model(task: dict[str, Any]) -> bytes:
    """Return the model of `build_model`."""
    from privacy_pipeline.backends.models.tabular import InputSpec, ModelContext
    from privacy_pipeline.data.schema.features import FeaturePlan

    given = task["context"]
    context = ModelContext(
        features=FeaturePlan.model_validate_json(given["features"]),
        inputs={
            name: InputSpec(shape=tuple(one["shape"]), dtype=one["dtype"]) for name, one in given["inputs"].items()
        },
        hidden_units=tuple(given["hidden_units"]),
        dropout=given["dropout"],
        params=given["params"],
    )
    import tensorflow as tf

    from privacy_pipeline.backends.isolated.crossing.trace import crossing_model
    from privacy_pipeline.backends.models.usable import require_usable
    from privacy_pipeline.tasks import registry as tasks

    if task["seed"] is not None:
        tf.keras.utils.set_random_seed(task["seed"])
    model = _code(task).build_model(context)
    features = context.features
    require_usable(model, use=task["use"], inputs=context.inputs, task=tasks.of(features), classes=features.classes)
    config, weights = crossing_model(model)
    return frames.pack({"config": config}, weights)


def _preprocessing(task: dict[str, Any]) -> bytes:
    """Return the graph of `preprocessing_fn`."""
    import importlib

    from privacy_pipeline.backends.isolated.crossing.trace_preprocessing import crossing_preprocessing

    module, _, name = _code(task).preprocessing_fn.rpartition(".")
    function = getattr(importlib.import_module(module), name)
    return frames.pack(crossing_preprocessing(function, task["custom_config"], task["features"], use=task["use"]))
