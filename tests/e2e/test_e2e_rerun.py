"""What did not change is not done again, and what did change is; a cached training spends no budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Background, Ended, Project, Shared

_MODEL = """\
import tensorflow as tf


def build_model(context):
    \"\"\"A linear model.\"\"\"
    inputs = {
        name: tf.keras.Input(shape=spec.shape, name=name, dtype=spec.dtype) for name, spec in context.inputs.items()
    }
    flat = tf.keras.layers.Concatenate()([*inputs.values()]) if len(inputs) > 1 else next(iter(inputs.values()))
    hidden = tf.keras.layers.Dense(4, activation="relu")(flat)
    return tf.keras.Model(inputs, tf.keras.layers.Dense(1)(hidden))
"""


@pytest.mark.slow_but("dp")
@pytest.mark.parametrize("name", ["plain", "dp"])
def test_an_unchanged_run_is_served_from_cache_and_spends_nothing(shared: Shared, name: str) -> None:
    project = shared.project
    entries, budget = project.entries(), project.budget()
    listed, published = project.runs(), project.published()
    pushed = project.pushed(f"adult-{name}")
    ended = project.done("run", f"configs/{name}.yaml")
    assert "starting TFX" not in ended.text
    assert "nothing changed since run" in ended.text
    assert "Trainer cached; spends no budget" in ended.text
    new = [run for run in project.runs() if run not in listed]
    assert len(new) == 1
    assert new[0]["cached_from"] in (shared.plain_id, shared.dp_id)
    statuses = project.statuses(new[0]["run_id"])
    assert statuses.pop("PrivacyGate") == "done"  # decided anew in every run
    assert set(statuses.values()) == {"cached"}
    assert (project.entries(), project.budget()) == (entries, budget)
    (row,) = [row for row in project.published() if row not in published]
    assert row["run_id"] == new[0]["run_id"]
    assert row["accuracy"] == pytest.approx(new[0]["accuracy"], rel=1e-5)
    assert row["cached_training"] == 1
    assert project.pushed(f"adult-{name}") == pushed


@pytest.mark.slow
def test_a_comment_in_the_yaml_does_not_retrain(shared: Shared) -> None:
    project = shared.project
    text = (project.root / "configs/dp.yaml").read_text()
    (project.root / "configs/commented.yaml").write_text(
        text.replace("# A comment.", "# Another comment,\n# and a longer one.\n").replace(
            "epochs: 1", "epochs:   1 # !"
        )
    )
    budget = project.budget()
    ended = project.done("run", "configs/commented.yaml")
    assert "starting TFX" not in ended.text
    assert "nothing changed since run" in ended.text
    assert project.budget() == budget


@pytest.fixture(scope="module")
def reruns(
    shared: Shared,
    new_project: Callable[[], Project],
    in_background: Callable[..., Background],
) -> Background:
    def strict() -> tuple[Ended, int, int]:
        before = len(shared.project.pushed())
        options = ("--set", "evaluation.thresholds.accuracy.min=0.999")
        ended = shared.project.cli("run", "configs/plain.yaml", *options)
        return ended, before, len(shared.project.pushed())

    def policy() -> tuple[Ended, int, int]:
        before = len(shared.project.pushed("adult-dp"))
        options = ("--set", "policy.max_epsilon=0.5", "--set", "evaluation.thresholds.accuracy.min=0.2")
        ended = shared.project.cli("run", "configs/dp.yaml", *options)
        return ended, before, len(shared.project.pushed("adult-dp"))

    def own_model() -> tuple[Ended, Ended, Ended]:
        project = new_project()
        project.edit("configs/plain.yaml", "model:\n  hidden_units: [8]\n", "model: my_model\n")
        (project.root / "my_model.py").write_text(_MODEL)
        first = project.cli("run", "configs/plain.yaml")
        again = project.cli("run", "configs/plain.yaml")
        project.edit("my_model.py", "Dense(4", "Dense(5")
        return first, again, project.cli("run", "configs/plain.yaml", "--to", "Trainer")

    return in_background({"own_model": own_model, "strict": strict, "policy": policy})


@pytest.mark.slow
def test_a_missed_threshold_is_named_and_nothing_is_pushed_or_trained_again(reruns: Background) -> None:
    ended, before, after = reruns["strict"].result()
    assert ended.code == 3, ended.text
    assert "not blessed, nothing was pushed" in ended.text
    assert "is below the threshold 0.9990" in ended.text
    assert "accuracy 0." in ended.text
    assert "= Trainer" in ended.text
    assert before == after


@pytest.mark.slow
def test_a_policy_below_the_runs_epsilon_refuses_the_model_and_spends_nothing(
    reruns: Background, shared: Shared
) -> None:
    ended, before, after = reruns["policy"].result()
    assert ended.code == 4, ended.text
    assert "is above the policy's 0.5" in ended.text
    assert "cached; spends no budget" in ended.text
    assert before == after
    assert shared.project.entries() == ["committed"]


@pytest.mark.slow
def test_a_changed_model_function_is_trained_again(reruns: Background) -> None:
    first, again, edited = reruns["own_model"].result()
    assert first.code == again.code == edited.code == 0, first.text + again.text + edited.text
    assert "✓ Trainer" in first.text
    assert "nothing changed since run" in again.text
    assert "✓ Trainer" in edited.text
    assert "= ExampleGen" in edited.text
