"""Runs tf.Transform; in a private run without analyzers, and each row by itself."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft
from pydantic import BaseModel, ConfigDict
from tfx.components.transform import executor as stock
from tfx.types import artifact_utils
from tfx.utils import io_utils

from privacy_pipeline.backends.isolated import apart
from privacy_pipeline.backends.isolated.visible import Private
from privacy_pipeline.components.artifacts import Artifacts, bind_to_data, data_of
from privacy_pipeline.components.dp_statistics.charged import plan_from, read_statistics
from privacy_pipeline.components.transform.crossed import CROSSED
from privacy_pipeline.components.transform.rows_alone import keeps_rows_apart
from privacy_pipeline.config.models.model import ModelSection
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError, PipelineError

APART = "apart"  # the request of a build; empty where no code of a user's preprocesses, or beside the data
FORBID_ANALYZERS = "forbid_analyzers"
FEATURE_PLAN = "feature_plan"
STATISTICS = "statistics"

log = logging.getLogger(__name__)


class Executor(stock.Executor):
    """Executor of PublicTransform.

    A guarantee needs features of a row that are computed from that row alone. The framework's function keeps to it, to
    the last bit. Another one is proven to, or Beam hands it batches of one, or it is refused.
    """

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:  # noqa: N802
        """Transform all splits.

        Raises:
            BadInputError: the run is private, and the `preprocessing_fn` would read the data to set itself up, keeps
                something from one batch to the next, or mixes the rows of a batch.
        """
        config = json.loads(exec_properties["custom_config"])
        if input_dict.get(STATISTICS):
            statistics = read_statistics(Path(artifact_utils.get_single_uri(input_dict[STATISTICS])))
            config[FEATURE_PLAN] = plan_from(config[FEATURE_PLAN], statistics).model_dump_json()
            exec_properties = {**exec_properties, "custom_config": json.dumps(config)}
        if config.get(APART):
            config = _with_crossed(config, artifact_utils.get_single_uri(input_dict["schema"]))
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
        bind_to_data(output_dict["transformed_examples"], data_of(input_dict["examples"]))


class Request(BaseModel):
    """What a build of a user's `preprocessing_fn` needs beside its `custom_config`."""

    model_config = ConfigDict(frozen=True)

    model: ModelSection
    data: Path
    workspace: Path
    ledger: str

    @classmethod
    def of(cls, config: PipelineConfig) -> Request:
        """Return the request of a config, which leaves out what does not change the features: it is a cache key."""
        model = ModelSection(use=config.model.use, params=config.model.params, files=config.model.files)
        return cls(model=model, data=config.dataset.path, workspace=config.workspace, ledger=config.ledger)


def _with_crossed(config: dict[str, str], schema_uri: str) -> dict[str, str]:
    """Return the `custom_config` with the graph of the user's function, which is traced where there is no data."""
    request = Request.model_validate_json(config[APART])
    private = Private(data=request.data, workspace=request.workspace, ledger=request.ledger)
    given = {name: value for name, value in config.items() if name != APART}
    graph = apart.preprocessing(request.model, private, custom_config=given, features=_columns(schema_uri))
    return {**config, CROSSED: graph}


def _columns(schema_uri: str) -> dict[str, dict[str, Any]]:
    """Return the columns' types, and shapes of those that no row lacks: no more of a schema, which may be inferred.

    Raises:
        BadInputError: a column has another form.
    """
    schema = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema_uri))
    found = {}
    for name, spec in tft.tf_metadata.schema_utils.schema_as_feature_spec(schema).feature_spec.items():
        if not isinstance(spec, (tf.io.FixedLenFeature, tf.io.VarLenFeature)):
            raise BadInputError(
                f"model: column '{name}' has the form {type(spec).__name__}, which no preprocessing_fn is traced with",
                fix="leave sparse and ragged representations out of the schema",
            )
        shape = list(spec.shape) if isinstance(spec, tf.io.FixedLenFeature) else None
        found[name] = {"dtype": spec.dtype.name, "shape": shape}
    return found


@contextmanager
def _one_row_at_a_time() -> Iterator[None]:
    """Make the stock executor, which names its processor in its own module, read batches of one."""
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
