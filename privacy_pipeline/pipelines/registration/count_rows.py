"""Count the rows of each split where only ExampleGen can assign rows to splits.

A row without a key is split by the hash of its serialized example. The count runs ExampleGen's own code, so that the
registered numbers are those of the pipeline. It runs in a separate process, because TFX logs a lot and leaves threads.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import source
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.ledger.state.registration import SplitCount
from privacy_pipeline.pipelines.graph.example_files import as_copied
from privacy_pipeline.processes.programs import command_of, ending_with_us


def count_hashed_rows(config: PipelineConfig, *, folder: Path) -> dict[str, SplitCount]:
    """Run ExampleGen's splitting on Beam and count the rows of each split.

    Args:
        config: names the dataset.
        folder: folder of the private copy of its files, which is read.

    Raises:
        BadInputError: a split would be empty.
        PipelineError: ExampleGen cannot read the data.
    """
    copied = config.model_copy(update={"dataset": as_copied(config.dataset, folder=folder)})
    done = subprocess.run(
        ending_with_us(command_of(__name__)),
        input=copied.model_dump_json(by_alias=True),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        raise PipelineError(f"{config.dataset.path}: ExampleGen cannot read the data: {' '.join(last)}")
    counts: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    empty = [name for name, rows in counts.items() if not rows]
    if empty:
        raise BadInputError(
            f"{config.dataset.path}: split {', '.join(empty)} would be empty", fix="change `hash_split`"
        )
    return {name: SplitCount(rows=rows, units=rows) for name, rows in sorted(counts.items())}


def _count(config: PipelineConfig) -> dict[str, int]:
    import apache_beam as beam

    from privacy_pipeline.pipelines.graph.build import example_gen

    with tempfile.TemporaryDirectory() as folder:
        component = example_gen(config.dataset, digest="")
        executor = component.executor_spec.executor_class()
        properties = _properties(component, source.resolve(dataset=config.dataset))
        with beam.Pipeline() as pipeline:
            for name, split in executor.GenerateExamplesByBeam(pipeline, properties).items():
                _ = (
                    split
                    | f"Count[{name}]" >> beam.combiners.Count.Globally()
                    | f"Write[{name}]" >> _write(folder, name)
                )
        return {path.name: int(path.read_text()) for path in Path(folder).iterdir()}


def _properties(component: Any, resolved: source.ResolvedSource) -> dict[str, Any]:
    properties = dict(component.spec.exec_properties)
    from tfx.proto import example_gen_pb2
    from tfx.utils import proto_utils

    split = example_gen_pb2.Input.Split(name="all", pattern=resolved.patterns[source.ALL])
    properties["input_config"] = proto_utils.proto_to_json(example_gen_pb2.Input(splits=[split]))
    return properties


def _write(folder: str, name: str) -> Any:
    import apache_beam as beam

    return beam.Map(lambda count: Path(folder, name).write_text(str(count)))


if __name__ == "__main__":
    print(json.dumps(_count(PipelineConfig.model_validate_json(sys.stdin.read()))))  # noqa: T201 (read by the parent)
