"""Runs tf.Transform, after having looked for analyzers where they are forbidden."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import tensorflow_transform as tft
from tensorflow_transform import analyzer_nodes, impl_helper
from tfx import types
from tfx.components.transform import executor as stock
from tfx.types import artifact_utils
from tfx.utils import import_utils, io_utils

from privacy_pipeline.components.dp_statistics.charged import plan_from, read_statistics
from privacy_pipeline.errors import BadInputError

FORBID_ANALYZERS = "forbid_analyzers"
FEATURE_PLAN = "feature_plan"
STATISTICS = "statistics"


class Executor(stock.Executor):
    """Executor of PublicTransform."""

    def Do(  # noqa: N802 (TFX names it)
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Transforms all splits.

        Raises:
            BadInputError: the run is private and the `preprocessing_fn` would read the data to set itself up.
        """
        config = json.loads(exec_properties["custom_config"])
        if input_dict.get(STATISTICS):
            statistics = read_statistics(Path(artifact_utils.get_single_uri(input_dict[STATISTICS])))
            config[FEATURE_PLAN] = plan_from(config[FEATURE_PLAN], statistics).model_dump_json()
            exec_properties = {**exec_properties, "custom_config": json.dumps(config)}
        if config[FORBID_ANALYZERS]:
            schema = artifact_utils.get_single_uri(input_dict["schema"])
            refuse_analyzers(path=exec_properties["preprocessing_fn"], config=config, schema_uri=schema)
        super().Do(input_dict, output_dict, exec_properties)


def refuse_analyzers(*, path: str, config: dict[str, str], schema_uri: str) -> None:
    """Traces a `preprocessing_fn` and looks whether any column feeds an analyzer.

    Args:
        path: dotted path of the function.
        config: its `custom_config`.
        schema_uri: folder of the schema.

    Raises:
        BadInputError: it does: means, vocabularies and the like of private data are a release that nobody charged.
    """
    module, _, name = path.rpartition(".")
    function = functools.partial(import_utils.import_func_from_module(module, name), custom_config=config)
    schema = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema_uri))
    features = tft.tf_metadata.schema_utils.schema_as_feature_spec(schema).feature_spec
    specs = impl_helper.get_type_specs_from_feature_specs(features)
    graph, _, _ = impl_helper.trace_preprocessing_function(function, specs, use_tf_compat_v1=False)
    # Every analyzer leaves its result here; assertions and lookup tables, which read no data to set up, do not.
    if graph.get_collection(analyzer_nodes.TENSOR_REPLACEMENTS):
        columns = tft.get_analyze_input_columns(function, specs)
        raise BadInputError(
            f"{path} analyzes {', '.join(sorted(columns))}: what it computes from private data is not covered by the "
            "guarantee",
            fix="use constants that are publicly known (the schema's ranges and domains) in place of analyzers",
        )
