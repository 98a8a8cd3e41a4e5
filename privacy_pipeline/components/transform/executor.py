"""Runs tf.Transform; in a private run without analyzers, and each row by itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tfx import types
from tfx.components.transform import executor as stock
from tfx.types import artifact_utils

from privacy_pipeline.components.dp_statistics.charged import plan_from, read_statistics
from privacy_pipeline.components.transform.rows_alone import keeps_rows_apart
from privacy_pipeline.errors import PipelineError

FORBID_ANALYZERS = "forbid_analyzers"
FEATURE_PLAN = "feature_plan"
STATISTICS = "statistics"

log = logging.getLogger(__name__)


class Executor(stock.Executor):
    """Executor of PublicTransform.

    A guarantee needs features of a row that are computed from that row alone. The framework's function keeps to it, to
    the last bit. Another one is proven to, or Beam hands it batches of one, or it is refused.
    """

    def Do(  # noqa: N802 (TFX names it)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Transforms all splits.

        Raises:
            BadInputError: the run is private, and the `preprocessing_fn` would read the data to set itself up, keeps
                something from one batch to the next, or mixes the rows of a batch.
        """
        config = json.loads(exec_properties["custom_config"])
        if input_dict.get(STATISTICS):
            statistics = read_statistics(Path(artifact_utils.get_single_uri(input_dict[STATISTICS])))
            config[FEATURE_PLAN] = plan_from(config[FEATURE_PLAN], statistics).model_dump_json()
            exec_properties = {**exec_properties, "custom_config": json.dumps(config)}
        batches: AbstractContextManager[None] = nullcontext()
        if config[FORBID_ANALYZERS]:
            schema = artifact_utils.get_single_uri(input_dict["schema"])
            path = exec_properties["preprocessing_fn"]
            if not keeps_rows_apart(path=path, config=config, schema_uri=schema):
                log.info("%s is not proven to keep rows apart: it transforms one row at a time", path)
                batches = _one_row_at_a_time()
        with batches:
            super().Do(input_dict, output_dict, exec_properties)


@contextmanager
def _one_row_at_a_time() -> Iterator[None]:
    """Makes the stock executor, which names its processor in its own module, read batches of one."""
    asked = []

    class OneRow(stock.TransformProcessor):
        def _GetDesiredBatchSize(self, data_format: int, schema: Any) -> int:  # noqa: N802 (TFX names it)
            asked.append(data_format)
            return 1

    before = stock.TransformProcessor
    stock.TransformProcessor = OneRow
    try:
        yield
    finally:
        stock.TransformProcessor = before
    if not asked:
        raise PipelineError("this version of TFX does not ask for the size of a batch", fix="install the pinned one")
