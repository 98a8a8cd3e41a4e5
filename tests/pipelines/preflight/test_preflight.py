"""What is refused before TFX is imported and before any data is read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError, BudgetRefusedError
from privacy_pipeline.ledger.ledger import Ledger
from privacy_pipeline.ledger.state.policy import Policy
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.pipelines.registration.register import register_dataset
from tests.pipelines.projects import SCHEMA, write_project

UNREVIEWED = SCHEMA.replace('name: "size"', 'name: "size" annotation { tag: "unreviewed" }')


def registered(root: Path, *, epsilon: float = 10.0, **sections: Any) -> PipelineConfig:
    config = write_project(root, backend="dp_sgd", **sections)
    register_dataset(config=config, epsilon=epsilon, delta=1e-5)
    return config


def test_a_plain_run_needs_no_ledger(tmp_path: Path) -> None:
    checked = preflight.check(write_project(tmp_path), span=1)
    assert (checked.plan, checked.charges, checked.registration) == (None, (), None)
    assert checked.features is not None and [c.name for c in checked.features.columns] == ["colour", "size"]
    assert not (tmp_path / "ledger").exists()


def test_a_plain_run_on_a_registered_dataset_will_be_journalled(tmp_path: Path) -> None:
    config = registered(tmp_path)
    plain = config.model_copy(update={"training": write_project(tmp_path / "plain").training})
    assert preflight.check(plain, span=1).journalled
    other = plain.model_copy(update={"dataset": plain.dataset.model_copy(update={"name": "other"})})
    assert not preflight.check(other, span=1).journalled
    assert not preflight.check(config, span=1).journalled  # it is charged


def test_a_dp_run_is_planned_on_the_registered_units(tmp_path: Path) -> None:
    checked = preflight.check(registered(tmp_path), span=1)
    assert checked.plan is not None and checked.forecast is not None
    assert (checked.plan.units, checked.plan.steps) == (160, 8)
    assert checked.forecast.fits and checked.forecast.epsilon_before == 0


def test_no_data_is_read(tmp_path: Path) -> None:
    config = registered(tmp_path)
    shutil.rmtree(tmp_path / "data")
    assert preflight.check(config, span=1).forecast is not None


@pytest.mark.parametrize("slices", [["shade"], [["colour", "shade"]]])
def test_slices_by_an_unknown_column_are_refused(tmp_path: Path, slices: list[Any]) -> None:
    config = write_project(tmp_path, evaluation={"slices": slices})
    with pytest.raises(BadInputError, match=r"evaluation\.slices: 'shade' is not a column") as caught:
        preflight.check(config, span=1)
    assert "colour" in caught.value.fix


def test_slices_by_columns_and_the_label_are_taken(tmp_path: Path) -> None:
    preflight.check(write_project(tmp_path, evaluation={"slices": ["colour", ["colour", "bought"]]}), span=1)


def test_a_slice_may_use_a_column_that_is_kept_out_of_the_model(tmp_path: Path) -> None:
    """Fairness is measured on attributes that the model must not see; TFMA slices raw examples."""
    preflight.check(write_project(tmp_path, evaluation={"slices": ["person"]}), span=1)


def test_an_unreviewed_schema_is_refused_in_a_dp_run_alone(tmp_path: Path) -> None:
    preflight.check(write_project(tmp_path / "plain", schema=UNREVIEWED), span=1)
    with pytest.raises(BadInputError, match="not reviewed yet: size"):
        preflight.check(registered(tmp_path / "dp", schema=UNREVIEWED), span=1)


def test_a_missing_ledger_refuses_a_dp_run(tmp_path: Path) -> None:
    with pytest.raises(BudgetRefusedError) as caught:
        preflight.check(write_project(tmp_path, backend="dp_sgd"), span=1)
    assert caught.value.fix
    assert not (tmp_path / "ledger").exists()  # and none is made


@pytest.mark.parametrize("change", [{"dataset": {"name": "others"}}, {}], ids=["name", "span"])
def test_an_unregistered_dataset_or_span_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    config = registered(tmp_path)
    other = config.model_copy(update={"dataset": config.dataset.model_copy(update=change.get("dataset", {}))})
    with pytest.raises(BudgetRefusedError, match="is not registered") as caught:
        preflight.check(other, span=1 if change else 2)
    assert "budget register" in caught.value.fix


def test_a_run_over_budget_is_forecast_and_its_refusal_names_the_numbers(tmp_path: Path) -> None:
    config = registered(tmp_path, epsilon=0.1)
    checked = preflight.check(config, span=1)
    (charge,) = checked.charges
    forecast = charge.forecast
    assert not forecast.fits and forecast.runs_that_fit == 0
    error = preflight.over_budget(config, checked, charge, span=1, path=Path("c.yaml"))
    assert f"{forecast.epsilon_run:.3f}" in error.message and "cap is 0.100, 0.100 remain" in error.message
    assert "privacy-pipeline run c.yaml --set training.dp_sgd.noise_multiplier=" in error.fix
    assert error.exit_code == 4
    assert not Ledger.open(config.ledger).entries("things")  # forecasting spends nothing


def evaluated(root: Path, *, cap: float = 2.0, **evaluation: Any) -> PipelineConfig:
    """A config with a DP evaluation of epsilon 1, and a budget for its eval split."""
    config = registered(root, evaluation={"dp": {"epsilon": 1.0, "delta": 1e-5}, **evaluation})
    policy = Policy(dataset="things", epsilon=10.0, delta=1e-5, unit="row", eval_epsilon=cap)
    Ledger.open(config.ledger).apply_policy(policy)
    return config


def test_a_dp_evaluation_is_forecast_beside_the_training(tmp_path: Path) -> None:
    config = evaluated(tmp_path, slices=["colour", ["colour", "bought"]])
    shutil.rmtree(tmp_path / "data")  # nothing is read
    training, evaluation = preflight.check(config, span=1).charges
    assert (training.ask.node, training.ask.split, training.ask.purpose) == ("Trainer", "train", "train")
    assert (evaluation.ask.node, evaluation.ask.split, evaluation.ask.purpose) == ("DpEvaluator", "eval", "evaluate")
    assert evaluation.ask.plan.units == 40
    assert evaluation.forecast.fits and evaluation.forecast.epsilon_run == pytest.approx(1.0, abs=1e-3)
    facts = preflight.forecast_facts(evaluation.ask.plan, evaluation.forecast)
    assert facts["epsilon"] == pytest.approx(1.0, abs=1e-3) and (facts["delta"], facts["accountant"]) == (1e-5, "RDP")


def test_what_is_paid_is_not_forecast(tmp_path: Path) -> None:
    config = evaluated(tmp_path)
    (evaluation,) = preflight.check(config, span=1, paid=["Trainer"]).charges
    assert evaluation.ask.node == "DpEvaluator"
    checked = preflight.check(config, span=1, paid=["Trainer", "DpEvaluator"])
    assert checked.charges == () and checked.plan is not None


def test_a_dp_evaluation_over_budget_is_refused_by_name(tmp_path: Path) -> None:
    config = evaluated(tmp_path, cap=0.5)
    checked = preflight.check(config, span=1)
    training, evaluation = checked.charges
    assert training.forecast.fits and not evaluation.forecast.fits
    error = preflight.over_budget(config, checked, evaluation, span=1, path=Path("c.yaml"))
    assert "eval split, refused: its DP evaluation costs epsilon 1.000" in error.message
    assert "cap is 0.500" in error.message and "evaluation.dp.epsilon" in error.fix


def test_a_dp_evaluation_needs_a_budget_of_the_eval_split(tmp_path: Path) -> None:
    config = registered(tmp_path, evaluation={"dp": {"epsilon": 1.0, "delta": 1e-5}})
    with pytest.raises(BudgetRefusedError, match="split 'eval' of dataset things has no budget") as caught:
        preflight.check(config, span=1)
    assert "eval_epsilon" in caught.value.fix


def test_a_noisy_slice_needs_public_values(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"evaluation\.slices: 'size' has no public domain"):
        preflight.check(evaluated(tmp_path, slices=["size"]), span=1)


def test_a_schema_with_a_column_that_was_not_registered_is_refused(tmp_path: Path) -> None:
    config = registered(tmp_path)
    (tmp_path / "schema.pbtxt").write_text(
        SCHEMA + SCHEMA.partition('feature {\n  name: "size"')[0].replace("colour", "shade")
    )
    with pytest.raises(BadInputError, match="has no column shade"):
        preflight.check(config, span=1)


def test_a_users_module_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no_such_module"):
        preflight.check(write_project(tmp_path, model={"use": "no_such_module"}), span=1)


def test_an_inferred_schema_has_no_feature_plan(tmp_path: Path) -> None:
    assert preflight.check(write_project(tmp_path, dataset={"schema": "infer"}), span=1).features is None


def test_the_forecast_of_the_run_itself_is_by_pld_at_its_own_delta(tmp_path: Path) -> None:
    checked = preflight.check(registered(tmp_path), span=1)
    assert checked.plan is not None and checked.forecast is not None
    facts = preflight.forecast_facts(checked.plan, checked.forecast)
    assert facts["accountant"] == "PLD" and 0 < facts["epsilon"] < facts["epsilon_rdp"]  # type: ignore[operator]
    assert facts["fits"] is True


def test_registering_needs_a_real_cap(tmp_path: Path) -> None:
    config = write_project(tmp_path, backend="dp_sgd")
    for epsilon, delta in ((0.0, 1e-5), (float("nan"), 1e-5), (1.0, 0.0), (1.0, 1.0)):
        with pytest.raises(BadInputError):
            register_dataset(config=config, epsilon=epsilon, delta=delta)
    assert not (tmp_path / "ledger").exists()
