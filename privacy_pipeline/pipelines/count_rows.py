"""Counts the rows of each split where only ExampleGen can tell which row goes where.

A row without a key is split by the hash of its serialized example. The count runs ExampleGen's own code, so that the
registered numbers are those of the pipeline.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from privacy_pipeline.accounting.registration import SplitCount
from privacy_pipeline.config.models import PipelineConfig
from privacy_pipeline.data.source import ALL, ResolvedSource
from privacy_pipeline.errors import BadInputError


def count_hashed_rows(config: PipelineConfig, resolved: ResolvedSource) -> dict[str, SplitCount]:
    """Runs ExampleGen's splitting on Beam and counts what falls where.

    Args:
        config: names the dataset.
        resolved: the span to count.

    Raises:
        BadInputError: a split would be empty.
    """
    import apache_beam as beam

    from privacy_pipeline.pipelines.build import example_gen

    component = example_gen(config.dataset, span=resolved.span)
    executor = component.executor_spec.executor_class()
    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline() as pipeline:
            for name, split in executor.GenerateExamplesByBeam(pipeline, _properties(component, resolved)).items():
                _ = (
                    split
                    | f"Count[{name}]" >> beam.combiners.Count.Globally()
                    | f"Write[{name}]" >> _write(folder, name)
                )
        counts = {path.name: int(path.read_text()) for path in Path(folder).iterdir()}
    empty = [name for name, rows in counts.items() if not rows]
    if empty:
        raise BadInputError(
            f"{config.dataset.path}: split {', '.join(empty)} would be empty", fix="change `hash_split`"
        )
    return {name: SplitCount(rows=rows, units=rows) for name, rows in sorted(counts.items())}


def _properties(component: Any, resolved: ResolvedSource) -> dict[str, Any]:
    properties = dict(component.spec.exec_properties)
    from tfx.proto import example_gen_pb2
    from tfx.utils import proto_utils

    split = example_gen_pb2.Input.Split(name="all", pattern=resolved.patterns[ALL])
    properties["input_config"] = proto_utils.proto_to_json(example_gen_pb2.Input(splits=[split]))
    return properties


def _write(folder: str, name: str) -> Any:
    import apache_beam as beam

    return beam.Map(lambda count: Path(folder, name).write_text(str(count)))
