"""Declares BoundExampleGen."""

from __future__ import annotations

from typing import Literal

from tfx.components.example_gen import component
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2

from privacy_pipeline.components.example_gen import executor

_EXECUTORS = {"csv": executor.CsvExecutor, "tfrecord": executor.RecordExecutor}


class BoundExampleGen(component.FileBasedExampleGen):
    """TFX's CsvExampleGen or ImportExampleGen; its examples carry the digest of the data that they were made of.

    Args:
        files: what the files are.
        input_base: folder of a private copy of the files.
        input_config: a pattern for each split.
        output_config: how one source is divided; None where each split has files of its own.
        digest: of the files.
    """

    def __init__(
        self,
        *,
        files: Literal["csv", "tfrecord"],
        input_base: str,
        input_config: example_gen_pb2.Input,
        output_config: example_gen_pb2.Output | None,
        digest: str,
    ) -> None:
        super().__init__(
            input_base=input_base,
            input_config=input_config,
            output_config=output_config,
            custom_config=executor.with_digest(digest),
            custom_executor_spec=executor_spec.BeamExecutorSpec(_EXECUTORS[files]),
        )
