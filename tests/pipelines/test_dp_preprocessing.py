"""DP statistics in a run: forecast with the training, refused with both costs, wired into Transform and Trainer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.entries import price, together
from privacy_pipeline.pipelines.execution import runs
from privacy_pipeline.pipelines.graph.compiled import compile_run
from privacy_pipeline.pipelines.nodes import DP_STATISTICS, nodes_of
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.registration.register import register_dataset
from tests.pipelines.projects import SCHEMA, make_spec, write_project

OPEN = SCHEMA.replace("  float_domain { min: 0 max: 10 }\n", "")
BLOCK = {"dp": {"epsilon": 1.0, "delta": 1e-6}}


def project(root: Path, *, epsilon: float = 10.0, **sections: Any) -> PipelineConfig:
    config = write_project(root, backend="dp_sgd", **{"schema": OPEN, "preprocessing": BLOCK, **sections})
    register_dataset(config=config, epsilon=epsilon, delta=1e-5)
    return config


def test_statistics_and_training_are_forecast_together(tmp_path: Path) -> None:
    statistics, training = preflight.check(project(tmp_path), span=1).charges
    ask = statistics.ask
    assert (ask.node, ask.purpose, ask.split) == ("DpStatistics", "preprocess", "train")
    assert training.ask.purpose == "train"
    assert training.forecast.epsilon_before == pytest.approx(statistics.forecast.epsilon_after)
    assert training.forecast.epsilon_after > training.forecast.epsilon_run


def test_a_budget_for_either_but_not_for_both_refuses_with_both_costs(tmp_path: Path) -> None:
    generous = preflight.check(project(tmp_path / "a"), span=1).charges
    both = together(price(charge.ask.plan.event, charge.ask.plan.relation) for charge in generous).epsilon(1e-5)
    either = max(charge.forecast.epsilon_run for charge in generous)
    config = project(tmp_path / "b", epsilon=(both + either) / 2)
    checked = preflight.check(config, span=1)
    statistics, training = checked.charges
    assert statistics.forecast.fits and not training.forecast.fits
    refusal = preflight.over_budget(config, checked, training, span=1, path=Path("c.yaml"))
    assert refusal.exit_code == 4
    told = re.search(r"this run costs epsilon ([0-9.]+), after its DP statistics at ([0-9.]+), which", refusal.message)
    assert told is not None
    assert float(told[1]) == pytest.approx(training.forecast.epsilon_run, abs=1e-3)
    assert float(told[2]) == pytest.approx(statistics.forecast.epsilon_run, abs=1e-3)
    assert not Ledger.open(config.ledger).entries("things")


def test_paid_statistics_are_not_forecast_again(tmp_path: Path) -> None:
    (training,) = preflight.check(project(tmp_path), span=1, paid=[DP_STATISTICS]).charges
    assert training.ask.node == "Trainer"


def test_a_schema_that_leaves_nothing_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nothing to release"):
        preflight.check(project(tmp_path, schema=SCHEMA), span=1)


def test_transform_and_trainer_take_the_statistics(tmp_path: Path) -> None:
    config = project(tmp_path)
    nodes = {n.pipeline_node.node_info.id: n.pipeline_node for n in compile_run(make_spec(config)).nodes}
    assert tuple(nodes_of(config)).index(DP_STATISTICS) < tuple(nodes_of(config)).index("Transform")
    assert set(nodes) == set(nodes_of(config))
    for name in ("Transform", "Trainer"):
        (channel,) = nodes[name].inputs.inputs["statistics"].channels
        assert channel.producer_node_query.id == DP_STATISTICS
    # Data that is refused costs nothing.
    assert "ExampleValidator" in nodes[DP_STATISTICS].upstream_nodes
    asked = json.loads(nodes[DP_STATISTICS].parameters.parameters["request"].field_value.string_value)
    assert [column["name"] for column in asked["columns"]] == ["size"]


def test_without_the_block_there_is_no_such_node(tmp_path: Path) -> None:
    config = write_project(tmp_path, backend="dp_sgd")
    nodes = {n.pipeline_node.node_info.id: n.pipeline_node for n in compile_run(make_spec(config)).nodes}
    assert DP_STATISTICS not in nodes and DP_STATISTICS not in nodes_of(config)
    assert "statistics" not in nodes["Transform"].inputs.inputs and "statistics" not in nodes["Trainer"].inputs.inputs


def fingerprint(config: PipelineConfig, **changes: Any) -> str | None:
    state = runs._state(make_spec(config, schema_digest="", **changes), Path("c.yaml"))
    return state.fingerprint_of(DP_STATISTICS)


def test_statistics_are_known_again_under_another_model_and_not_under_other_data_or_numbers(tmp_path: Path) -> None:
    config = project(tmp_path)
    known = fingerprint(config)
    assert known is not None
    other = config.model_copy(update={"model": config.model.model_copy(update={"dropout": 0.5})})
    assert fingerprint(other) == known
    assert fingerprint(config, code="another") == known  # of the user's, say
    assert fingerprint(config, data_digest="e" * 64) != known
    more = {"dp": {"epsilon": 2.0, "delta": 1e-6}}
    changed = PipelineConfig.model_validate({**config.model_dump(by_alias=True), "preprocessing": more})
    assert fingerprint(changed) != known
