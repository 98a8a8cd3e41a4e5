"""Makes examples as TFX does, and marks them with the data that they are of."""

from __future__ import annotations

from typing import Any

from google.protobuf import wrappers_pb2
from tfx import types
from tfx.components.example_gen.csv_example_gen import executor as csv
from tfx.components.example_gen.import_example_gen import executor as records
from tfx.proto import example_gen_pb2
from tfx.types import standard_component_specs as names
from tfx.utils import proto_utils

from privacy_pipeline.components.artifacts import bind_to_data

Artifacts = dict[str, list[types.Artifact]]


class CsvExecutor(csv.Executor):
    """Executor of `BoundExampleGen` on CSV files."""

    def Do(  # noqa: N802 (TFX names it)
        self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]
    ) -> None:
        """Read the files, and bind the examples to their digest."""
        super().Do(input_dict, output_dict, exec_properties)
        bind_to_data(output_dict[names.EXAMPLES_KEY], digest_in(exec_properties))


class RecordExecutor(records.Executor):
    """Executor of `BoundExampleGen` on TFRecord files."""

    def Do(  # noqa: N802 (TFX names it)
        self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]
    ) -> None:
        """Read the files, and bind the examples to their digest."""
        super().Do(input_dict, output_dict, exec_properties)
        bind_to_data(output_dict[names.EXAMPLES_KEY], digest_in(exec_properties))


def with_digest(digest: str) -> example_gen_pb2.CustomConfig:
    """Return the parameter of an ExampleGen that holds the digest of its files."""
    custom = example_gen_pb2.CustomConfig()
    custom.custom_config.Pack(wrappers_pb2.StringValue(value=digest))
    return custom


def digest_in(exec_properties: dict[str, Any]) -> str:
    """Return the digest that `with_digest` put there."""
    custom, value = example_gen_pb2.CustomConfig(), wrappers_pb2.StringValue()
    proto_utils.json_to_proto(exec_properties[names.CUSTOM_CONFIG_KEY], custom)
    custom.custom_config.Unpack(value)
    return str(value.value)
