"""Run the same DAG in stock TFX: `python stock_tfx.py PROJECT_FOLDER WORKSPACE`. See `pipeline_overhead.py`."""

from __future__ import annotations

import os
import sys

from tfx import v1 as tfx

from privacy_pipeline.config.loader import load_config
from privacy_pipeline.data.schema.schema_reader import read_feature_plan
from privacy_pipeline.pipelines.graph.eval_config import eval_config

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)


def pipeline(project: str, workspace: str) -> tfx.dsl.Pipeline:
    """Return stock components in the order of our pipeline; our own ones (gate, metrics) have no stock counterpart."""
    from pathlib import Path

    config = load_config(Path(ROOT, "configs", "adult_plain.yaml"))
    schema_file = os.path.join(ROOT, "configs", "schemas", "adult.pbtxt")
    features = read_feature_plan(schema_path=Path(schema_file), label="income", positive_class=">50K", unit_key=None)
    module = os.path.join(HERE, "stock_module.py")
    splits = [
        tfx.proto.Input.Split(name="train", pattern="span-{SPAN}/train/*"),
        tfx.proto.Input.Split(name="eval", pattern="span-{SPAN}/eval/*"),
    ]
    data = os.path.join(project, "data", "adult")
    examples = tfx.components.CsvExampleGen(input_base=data, input_config=tfx.proto.Input(splits=splits))
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"])
    schema = tfx.components.ImportSchemaGen(schema_file=schema_file)
    validator = tfx.components.ExampleValidator(
        statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"]
    )
    transform = tfx.components.Transform(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        module_file=module,
        custom_config={"feature_plan": features.model_dump_json()},
    )
    trainer = tfx.components.Trainer(
        module_file=module,
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema.outputs["schema"],
        train_args=tfx.proto.TrainArgs(num_steps=1),
        eval_args=tfx.proto.EvalArgs(num_steps=1),
        custom_config={"config": config.model_dump_json(by_alias=True), "features": features.model_dump_json()},
    )
    baseline = tfx.dsl.Resolver(
        strategy_class=tfx.dsl.experimental.LatestBlessedModelStrategy,
        model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
        model_blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelBlessing),
    ).with_id("latest_blessed_model")
    evaluator = tfx.components.Evaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=baseline.outputs["model"],
        eval_config=eval_config(config.evaluation),
    )
    destination = tfx.proto.PushDestination.Filesystem(base_directory=os.path.join(project, workspace, "pushed"))
    pusher = tfx.components.Pusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=tfx.proto.PushDestination(filesystem=destination),
    )
    return tfx.dsl.Pipeline(
        pipeline_name="stock",
        pipeline_root=os.path.join(project, workspace, "root"),
        metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
            os.path.join(project, workspace, "metadata.db")
        ),
        components=[examples, statistics, schema, validator, transform, trainer, baseline, evaluator, pusher],
        enable_cache=True,
    )


if __name__ == "__main__":
    tfx.orchestration.LocalDagRunner().run(pipeline(sys.argv[1], sys.argv[2]))
