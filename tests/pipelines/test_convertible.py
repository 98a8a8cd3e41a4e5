"""What the encrypted backend cannot convert is refused by `check`, before there is any data to read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.config.models import PipelineConfig
from privacy_pipeline.data.features import Column, FeaturePlan
from privacy_pipeline.encrypted import environment
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.convertible import require_convertible
from tests.encrypted.deployment import make_parties
from tests.reports.records import make_config

MODULE = """
import tensorflow as tf

def build_model(context):
    given = tf.keras.Input(context.inputs["features"].shape, name="features")
    hidden = tf.keras.layers.Dense(4, activation={activation!r}, name="hidden")(given)
    return tf.keras.Model(given, tf.keras.layers.Dense(1)(hidden))
"""
FEATURES = FeaturePlan(
    columns=(Column(name="size", kind="numeric", dtype="float", minimum=0.0, maximum=10.0),),
    label="bought",
    label_domain=("yes", "no"),
    label_dtype="bytes",
    positive_class="yes",
    unit_key=None,
    unit_key_dtype=None,
)


def config(**sections: Any) -> PipelineConfig:
    return make_config("encrypted", **{"training": {"encrypted": {"simulate": True}}, **sections})


@pytest.fixture(autouse=True)
def some_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.VARIABLE, sys.executable)


@pytest.mark.parametrize(("activation", "refused"), [("relu", False), ("tanh", True)])
def test_a_model_of_ones_own_is_looked_at(
    activation: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"own_{activation}_network"
    (tmp_path / f"{name}.py").write_text(MODULE.format(activation=activation))
    own = config(model={"use": name})
    if refused:
        with pytest.raises(BadInputError, match=r"layer 'hidden' \(Dense\) has activation tanh"):
            require_convertible(own, FEATURES)
    else:
        require_convertible(own, FEATURES)


def test_without_a_way_to_evaluate_nothing_starts(tmp_path: Path) -> None:
    require_convertible(config(), FEATURES)
    with pytest.raises(BadInputError, match="would protect nothing") as refusal:
        require_convertible(config(training={"encrypted": {}}), FEATURES)
    assert "simulate: true" in refusal.value.fix and "parties: DIR" in refusal.value.fix
    parties = make_parties(tmp_path / "parties")
    through = config(training={"encrypted": {"parties": str(parties)}})
    require_convertible(through, FEATURES)
    (parties / "weights-provider").rename(tmp_path / "elsewhere")
    with pytest.raises(BadInputError, match="has no folder weights-provider"):
        require_convertible(through, FEATURES)


def test_without_the_environment_nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(environment.VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(BadInputError, match="no such file"):
        require_convertible(config(), FEATURES)


@pytest.mark.parametrize(
    "training",
    [
        {"backend": "encrypted"},
        {"backend": "plain", "encrypted": {"simulate": True}},
        {"backend": "encrypted", "encrypted": {"train_with": "dp_sgd"}},
        {"backend": "encrypted", "encrypted": {"simulate": True, "parties": "parties"}},
        {"backend": "encrypted", "encrypted": {}, "dp_sgd": {"noise_multiplier": 1.0, "delta": 1e-5}},
    ],
)
def test_blocks_that_do_not_go_together_are_refused(training: dict[str, Any]) -> None:
    document = make_config("plain").model_dump(mode="json", by_alias=True)
    document["training"] = training
    with pytest.raises(ValueError, match=r"encrypted|dp_sgd"):
        PipelineConfig.model_validate(document)


def test_other_backends_need_none_of_it() -> None:
    require_convertible(make_config("plain"), FEATURES)
