"""What the encrypted backend cannot convert is refused by `check`, before there is any data to read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from privacy_pipeline.backends import encrypted, keras_io
from privacy_pipeline.backends.models.tabular import InputSpec
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data.schema import encoded
from privacy_pipeline.data.schema.encoded import width_of
from privacy_pipeline.data.schema.features import Column, FeaturePlan
from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.preflight.convertible import require_convertible
from tests.encrypted.deployment import make_parties
from tests.reports.records import make_config, make_plan

MODULE = """
import tensorflow as tf

def build_model(context):
    given = tf.keras.Input(context.inputs["features"].shape, name="features")
    hidden = tf.keras.layers.Dense(4, activation={activation!r}, name="hidden")(given)
    return tf.keras.Model(given, tf.keras.layers.Dense(1)(hidden))
"""
LAYERS = """
import tensorflow as tf
keras = tf.keras

def own(shape, dtype=None):
    return tf.zeros(shape)

class Doubled(keras.layers.Dense):
    def call(self, inputs):
        return 2 * super().call(inputs)

def build_model(context):
    given = keras.Input(context.inputs["features"].shape, name="features")
    hidden = {layer}(given)
    return keras.Model(given, keras.layers.Dense(1)(hidden))
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


@pytest.mark.slow_but("relu-False")
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


LOST = r"layer 'odd' \(Dense\) comes back from a saved model without its class"


@pytest.mark.parametrize(
    ("layer", "trust", "says"),
    [
        ("keras.layers.Dense(4, kernel_initializer=lambda *given, **named: own(*given), name='odd')", "reviewed", LOST),
        ("keras.layers.Dense(4, kernel_regularizer=lambda w: tf.reduce_sum(w), name='odd')", "reviewed", LOST),
        ("keras.layers.Dense(4, kernel_constraint=lambda w: w, name='odd')", "reviewed", LOST),
        ("keras.layers.Dense(4, bias_initializer=own, name='odd')", "reviewed", LOST),
        ("keras.layers.LayerNormalization(name='odd')", "reviewed", r"'odd' \(LayerNormalization\) is not supported"),
        pytest.param(
            "keras.layers.LayerNormalization(name='odd')", None, r"'odd' \(LayerNormalization\) is not supported",
            marks=pytest.mark.slow,
        ),
        ("Doubled(4, name='odd')", "reviewed", r"'odd' \(Doubled\) is not supported"),
        ("Doubled(4, name='odd')", None, "'odd'"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_after_training_is_refused_before_it(
    layer: str, trust: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"odd_{trust}_{abs(hash(layer))}"
    (tmp_path / f"{name}.py").write_text(LAYERS.format(layer=layer))
    with pytest.raises(BadInputError, match=says) as refusal:
        require_convertible(config(model={"use": name, "trust": trust}), FEATURES)
    assert refusal.value.fix


def test_a_private_training_is_refused_before_it_is_charged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the features come from your own code, so that only the trainer can look at the model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_private_network.py").write_text(MODULE.format(activation="tanh"))
    dp = {"dp_sgd": {"noise_multiplier": 1.0, "delta": 1e-5}, "encrypted": {"simulate": True, "train_with": "dp_sgd"}}
    specs = {"features": InputSpec(shape=(3,), dtype="float32")}
    with pytest.raises(BadInputError, match=r"layer 'hidden' \(Dense\) has activation tanh"):
        encrypted.EncryptedBackend().examine(
            config=config(model={"use": "own_private_network"}, training=dp),
            features=FEATURES,
            plan=make_plan(backend="encrypted"),
            specs=lambda: specs,
        )


def test_the_features_of_a_schema_have_known_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ranged_network.py").write_text(MODULE.format(activation="relu"))
    own = config(model={"use": "ranged_network"}, training={"encrypted": {"simulate": True, "input_range": 7.0}})
    width = sum(map(width_of, FEATURES.columns))
    specs = {encoded.FEATURES: InputSpec(shape=(width,), dtype="float32")}
    model = keras_io.model_of(own, features=FEATURES, specs=specs)
    (known,) = encrypted.converted(model, own, FEATURES).inputs
    assert known.lower == (0.0,) * width and max(known.upper) < 1.001
    inferred = own.model_copy(update={"dataset": own.dataset.model_copy(update={"schema_path": "infer"})})
    (other,) = encrypted.converted(model, inferred, FEATURES).inputs
    assert (other.lower, other.upper) == ((-7.0,), (7.0,))


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


def test_other_backends_need_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(environment, "interpreter", lambda: looked.append("environment"))
    monkeypatch.setattr(encrypted, "rehearse", lambda *given: looked.append("model"))
    require_convertible(make_config("plain"), FEATURES)
    assert looked == []
