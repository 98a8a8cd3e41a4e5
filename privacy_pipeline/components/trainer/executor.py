"""Reserves budget, trains, commits, and writes model, logs and privacy record."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow_transform as tft
from pydantic import ValidationError
from tfx import types
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from privacy_pipeline import backends
from privacy_pipeline.accounting.plan import MechanismPlan
from privacy_pipeline.accounting.record import Composition, PrivacyRecord
from privacy_pipeline.accounting.tuning import purpose_of
from privacy_pipeline.backends import registry, rehearsal
from privacy_pipeline.backends.base import Backend, Executed, TrainingInputs
from privacy_pipeline.backends.models.tabular import InputSpec
from privacy_pipeline.components import progress
from privacy_pipeline.components.artifacts import RECORD_FILE, Artifacts, bind_model, require_data
from privacy_pipeline.components.dp_statistics.charged import plan_from, read_statistics
from privacy_pipeline.components.transform.inferred import observed_plan
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.files import folders_of
from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.data.schema.schema_reader import unreviewed
from privacy_pipeline.dp import attempts
from privacy_pipeline.dp.attempts import Attempt
from privacy_pipeline.dp.training.run_state import StateMismatch
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.files.atomic import write_whole
from privacy_pipeline.ledger import pins
from privacy_pipeline.ledger.charging.grants import ResumeToken
from privacy_pipeline.ledger.charging.sequence import charged
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.registration import division_of
from privacy_pipeline.releases.statistics import DpStatistics
from privacy_pipeline.reports.record.build import build_record
from privacy_pipeline.reports.record.run_facts import RunFacts

Compositions = tuple[Composition, ...]


class Executor(base_executor.BaseExecutor):
    """Executor of PrivateTrainer."""

    def Do(self, input_dict: Artifacts, output_dict: Artifacts, exec_properties: dict[str, Any]) -> None:  # noqa: N802
        """Train one model.

        Raises:
            BadInputError: a row, the model, its signatures or the disk would break off the training, or what comes
                after it; nothing was charged.
            BudgetRefusedError: the ledger does not grant what the plan costs; nothing was computed from a row.
            PipelineError: the examples are of other data; or the training failed, or did not run as planned.
        """
        require_data(input_dict["examples"], exec_properties["data_digest"])
        config = PipelineConfig.model_validate_json(exec_properties["config"])
        transform_graph = artifact_utils.get_single_uri(input_dict["transform_graph"])
        statistics = _statistics(input_dict)
        features = _features(exec_properties["features"], config, transform_graph, statistics)
        backend = registry.of(config)
        facts = RunFacts(
            run_id=self._context.pipeline_run_id,
            pipeline=self._context.pipeline_info.id,
            code=exec_properties["code"],
            lock=exec_properties["lock"],
            data=exec_properties["data_digest"],
            schema_is_public=_schema_is_public(config),
            statistics=statistics,
        )
        with tempfile.TemporaryDirectory(dir=self._get_tmp_dir()) as work:
            inputs = self._inputs(input_dict, output_dict, config, features, Path(work))
            node = self._context.pipeline_node.node_info.id
            if config.training.claims_guarantee:
                rehearsal.rehearse(inputs)
            record = train_charged(backend=backend, inputs=inputs, facts=facts, node=node)
        bind_model(artifact_utils.get_single_instance(output_dict["model"]))
        _publish(artifact_utils.get_single_instance(output_dict["privacy_record"]), record)

    def _inputs(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        config: PipelineConfig,
        features: FeaturePlan,
        work: Path,
    ) -> TrainingInputs:
        node = self._context.pipeline_node.node_info.id
        examples = input_dict["examples"]
        model = artifact_utils.get_single_instance(output_dict["model"])
        return TrainingInputs(
            train_files=_files(examples, "train"),
            eval_files=_files(examples, "eval"),
            transform_graph=Path(artifact_utils.get_single_uri(input_dict["transform_graph"])),
            features=features,
            config=config,
            plan=None,
            work_dir=work,
            model_dir=Path(path_utils.serving_model_dir(model.uri)),
            log_dir=Path(artifact_utils.get_single_uri(output_dict["model_run"])) / "tensorboard",
            report_progress=lambda done, total, unit: progress.report(node=node, done=done, total=total, unit=unit),
            # Beside the nodes' folders: <pipeline root>/<node>/model/<execution> is where the model goes.
            state_dir=Path(model.uri).parents[2] / attempts.ROOT,
        )


def train_charged(*, backend: Backend, inputs: TrainingInputs, facts: RunFacts, node: str) -> PrivacyRecord:
    """Train, with the budget reserved before the first read of data and never given back after it.

    A training that was killed goes on under the charge it has, if the same key is still there and all else is the same.
    A tuning keeps no key, so that nothing on disk reveals its trials: it starts over, and pays again.

    Args:
        backend: what trains.
        inputs: what it trains on; its `plan` is filled in here, from the registration. Its `state_dir` is the folder of
            all attempts of the pipeline.
        facts: the run.
        node: the node that spends.

    Raises:
        BadInputError: the model cannot be trained privately; nothing was reserved.
        BudgetRefusedError: the ledger refuses.
    """
    config = inputs.config
    if not config.training.claims_guarantee:
        executed = backend.train(inputs)
        return build_record(config=config, facts=facts, executed=executed, plan=None, composition=None)
    ledger = Ledger.open(config.ledger)
    pins.require(ledger, pins.places(data=folders_of(config.dataset), workspace=config.workspace))
    registration = ledger.registration(config.dataset.name, config.dataset.named_span)
    units = registration.splits["train"].units if registration else None
    plan = backend.plan(config=config, units=units)
    if plan is None:
        raise ValueError(f"backend {backend.name} claims a guarantee but plans no mechanism")
    inputs = dataclasses.replace(inputs, plan=plan, binding=f"{facts.code} {facts.lock} {facts.data}")
    # Reads no data: a model whose rows mix is refused before anything is reserved.
    if config.model.is_built_apart:
        _require_built(inputs)
    backend.examine(config=config, features=inputs.features, plan=plan, specs=lambda: _specs(inputs))
    training = _Training(backend, inputs, plan, facts, node, ledger)
    if inputs.state_dir is None or plan.tuning is not None:
        executed, compositions = training.spend(attempt=None, resume_token=None)
    else:
        attempts.wipe(inputs.state_dir, ledger.settled(attempts.charged(inputs.state_dir)))
        with attempts.held(inputs.state_dir, run_id=facts.run_id, node=node, plan=plan) as attempt:
            executed, compositions = training.continue_or_begin(attempt)
    try:
        first, *further = compositions
        return build_record(
            config=config, facts=facts, executed=executed, plan=plan, composition=first, further=further
        )
    except ValidationError as error:
        raise PipelineError(
            f"{backend.name} did not run as planned, so there is no guarantee to state; the budget is spent: {error}",
            fix="report this; the model is not used",
        ) from error


@dataclasses.dataclass(frozen=True)
class _Training:
    """A training that is to be charged."""

    backend: Backend
    inputs: TrainingInputs
    plan: MechanismPlan
    facts: RunFacts
    node: str
    ledger: Ledger

    def continue_or_begin(self, attempt: Attempt) -> tuple[Executed, Compositions]:
        """Continue what a killed attempt left, if it fits; else start a training, which is charged."""
        resume_token = attempt.resume_token()
        if resume_token is not None:
            try:
                return self.spend(attempt=attempt, resume_token=resume_token)
            except StateMismatch as error:
                # The key is destroyed by now: what ran stays charged, and what runs next is charged too.
                logging.warning("%s", error.message)
        return self.spend(attempt=attempt, resume_token=None)

    def spend(self, *, attempt: Attempt | None, resume_token: ResumeToken | None) -> tuple[Executed, Compositions]:
        """Run one training under one charge, at each budget that the spans belong to."""
        config = self.inputs.config
        with charged(
            self.ledger.spend(
                dataset=config.dataset.name,
                span=config.dataset.named_span,
                data_digest=self.facts.data,
                split="train",
                run_id=self.facts.run_id,
                node=self.node,
                plan=self.plan,
                purpose=purpose_of(config),
                division=division_of(config.dataset),
                continues=resume_token,
            ),
            composition=self.ledger.composition,
            note=lambda: pins.note_again(self.ledger, data=folders_of(config.dataset), workspace=config.workspace),
        ) as charging:
            audits = self.backend.verify(self.inputs)
            if not charging.grant.continued:
                if attempt is not None:
                    attempt.begin(charging.grant)
                charging.start()
            state_dir = attempt.state_dir if attempt is not None else None
            executed = self.backend.train(dataclasses.replace(self.inputs, state_dir=state_dir, audits=audits))
            attempts.require_continued(charging.grant, executed.resumed_at)
            compositions = charging.commit(executed.event or self.plan.event)
        if attempt is not None:
            attempt.destroy()
        return executed, compositions


def _require_built(inputs: TrainingInputs) -> None:
    """Build the model once, whether or not the backend examines it: what cannot be built costs nothing."""
    backends.keras_io.model_of(inputs.config, features=inputs.features, specs=_specs(inputs))


def _specs(inputs: TrainingInputs) -> Mapping[str, InputSpec]:
    return backends.keras_io.input_specs(inputs.transform_graph)


def _schema_is_public(config: PipelineConfig) -> bool:
    # Asked before the training: a schema file that is gone must not cost a record of budget that was spent.
    path = config.dataset.schema_path
    return path != "infer" and not unreviewed(path)


def _statistics(input_dict: dict[str, list[types.Artifact]]) -> DpStatistics | None:
    found = input_dict.get("statistics")
    return read_statistics(Path(artifact_utils.get_single_uri(found))) if found else None


def _features(
    stated: str, config: PipelineConfig, transform_graph: str, statistics: DpStatistics | None
) -> FeaturePlan:
    """Return the plan of the curated schema; where the schema was inferred, the columns as Transform found them."""
    if stated:
        return plan_from(stated, statistics)
    unit = config.dataset.privacy_unit
    raw = tft.TFTransformOutput(transform_graph).raw_feature_spec()
    return observed_plan(
        {name: feature.dtype for name, feature in raw.items()},
        label=config.dataset.label,
        positive_class=str(config.dataset.positive_class),
        unit_key=unit.key if isinstance(unit, KeyedUnit) else None,
    )


def _files(examples: list[types.Artifact], split: str) -> tuple[str, ...]:
    return tuple(io_utils.all_files_pattern(uri) for uri in artifact_utils.get_split_uris(examples, split))


def _publish(artifact: types.Artifact, record: PrivacyRecord) -> None:
    write_whole(path=Path(artifact.uri, RECORD_FILE), content=record.model_dump_json(indent=2).encode())
    artifact.backend = record.backend
    artifact.training_guarantee = record.training_guarantee
    artifact.unit = record.unit
    if record.relation is not None:
        artifact.relation = record.relation
    if record.guarantee is not None and record.mechanism is not None:
        artifact.epsilon = record.guarantee.epsilon
        artifact.delta = record.guarantee.delta
        artifact.accountant = record.guarantee.accountant
        artifact.noise_multiplier = record.mechanism.noise_multiplier
        artifact.sampler = record.mechanism.sampler
    if record.composition is not None:
        artifact.ledger_entry = record.composition.ledger_entry
