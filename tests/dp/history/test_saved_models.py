"""A privacy history inside of saved models: in each format, taken up by another machine, and bound to the weights."""

from __future__ import annotations

import math
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyHistory, load_model, load_weights, make_private
from privacy_pipeline.dp.history import history_store
from privacy_pipeline.errors import BadInputError
from tests.dp.history.test_history import STEPS, about, data, network, plan, trained, truth

FORMATS: dict[str, tuple[str, bool, dict[str, str]]] = {
    ".keras": ("m.keras", True, {}),
    ".h5": ("m.h5", True, {}),
    "SavedModel": ("m", True, {"save_format": "tf"}),
    "weights.h5": ("w.weights.h5", False, {}),
    "weights of old": ("w.h5", False, {}),
    "checkpoint": ("w", False, {}),
}


@pytest.fixture
def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Forgets what this process and the user's folder have of histories."""

    def move() -> None:
        monkeypatch.setattr(history_store, "_KNOWN", {})
        monkeypatch.setenv(history_store.FOLDER, str(tmp_path / "elsewhere"))

    return move


def private_of(model: Any, **more: Any) -> Any:
    return make_private(model, plan(), optimizer="sgd", loss="mse", **more)


@pytest.fixture(scope="module")
def made() -> Any:
    """A model that has been trained, and what it cost."""
    model = network()
    model.compile("sgd", "mse")
    private = private_of(model)
    return private, private.fit(*data()).privacy_history


def of_another_machine(path: Path, *, whole: bool) -> Any:
    if whole:
        return load_model(path)
    model = network()
    load_weights(model, path)
    return model


@pytest.mark.slow_but(".h5", "SavedModel", "weights.h5", "weights of old", "checkpoint")
@pytest.mark.parametrize("kind", FORMATS)
def test_another_machine_takes_up_the_history(
    made: Any, tmp_path: Path, another_machine: Callable[[], None], kind: str
) -> None:
    name, whole, more = FORMATS[kind]
    private, history = made
    (private.save if whole else private.save_weights)(tmp_path / name, **more)
    another_machine()
    assert PrivacyHistory.load(tmp_path / name) == history
    loaded = of_another_machine(tmp_path / name, whole=whole)
    assert history_store.recalled(history_store.digest_of(loaded.weights)) == history


def test_the_next_training_composes_with_it(made: Any, tmp_path: Path, another_machine: Callable[[], None]) -> None:
    made[0].save(tmp_path / "m.keras")
    another_machine()
    loaded = load_model(tmp_path / "m.keras")
    assert trained(loaded, noise=2.0).epsilon() == about(truth((1.0, STEPS), (2.0, STEPS)))


@pytest.mark.parametrize("kind", FORMATS)
def test_keras_alone_loads_it_and_the_history_is_asked_for(
    made: Any, tmp_path: Path, another_machine: Callable[[], None], kind: str
) -> None:
    name, whole, more = FORMATS[kind]
    (made[0].save if whole else made[0].save_weights)(tmp_path / name, **more)
    another_machine()
    loaded = tf.keras.models.load_model(tmp_path / name) if whole else network()
    if not whole:
        loaded.load_weights(tmp_path / name)
    with pytest.raises(BadInputError, match="nothing is known of what made"):
        trained(loaded)


@pytest.mark.parametrize("kind", FORMATS)
def test_keras_saves_and_the_history_is_put_in_afterwards(
    made: Any, tmp_path: Path, another_machine: Callable[[], None], kind: str
) -> None:
    name, whole, more = FORMATS[kind]
    private, history = made
    private.model.save(tmp_path / name, **more) if whole else private.model.save_weights(tmp_path / name)
    with pytest.raises(BadInputError, match="no privacy history was saved"):
        PrivacyHistory.load(tmp_path / name)
    history.save(tmp_path / name)
    another_machine()
    loaded = of_another_machine(tmp_path / name, whole=whole)
    assert history_store.recalled(history_store.digest_of(loaded.weights)) == history


def test_weights_that_are_not_released_to_the_store_are_saved_with_their_history(tmp_path: Path) -> None:
    made = private_of(network(), remember=False)
    execution = made.fit(*data())
    made.save(tmp_path / "m.keras")
    assert PrivacyHistory.load(tmp_path / "m.keras") == execution.privacy_history


@pytest.mark.slow
def test_a_seed_voids_the_guarantee_on_another_machine_too(tmp_path: Path, another_machine: Callable[[], None]) -> None:
    made = private_of(network(), seed=1)
    made.fit(*data())
    made.save(tmp_path / "m.keras")
    another_machine()
    assert trained(load_model(tmp_path / "m.keras")).epsilon() == math.inf


def test_an_untrained_model_is_saved_as_such(tmp_path: Path) -> None:
    made = private_of(network())
    made.save(tmp_path / "m.keras")
    assert PrivacyHistory.load(tmp_path / "m.keras") == PrivacyHistory()


def test_a_model_that_was_changed_since_is_not_saved(tmp_path: Path) -> None:
    made = private_of(network())
    made.fit(*data())
    made.model.set_weights([value + 0.1 for value in made.model.get_weights()])
    with pytest.raises(BadInputError, match="were changed since the last fit"):
        made.save(tmp_path / "m.keras")
    assert not (tmp_path / "m.keras").exists()


@pytest.mark.slow
def test_saving_again_replaces_model_and_history(tmp_path: Path) -> None:
    for name, more in (("m.keras", {}), ("m.h5", {}), ("m", {"save_format": "tf"})):
        made = private_of(network())
        made.save(tmp_path / name, **more)
        execution = made.fit(*data())
        made.save(tmp_path / name, **more)
        assert PrivacyHistory.load(tmp_path / name) == execution.privacy_history


@pytest.mark.slow
def test_a_history_of_other_weights_is_refused(tmp_path: Path) -> None:
    first, second = private_of(network()), private_of(network())
    for made, name in ((first, "a"), (second, "b")):
        made.fit(*data())
        made.save_weights(tmp_path / name)
    shutil.copy(tmp_path / "a.privacy_history.json", tmp_path / "b.privacy_history.json")
    with pytest.raises(BadInputError, match="saved again without their privacy history"):
        load_weights(network(), tmp_path / "b")
    for made, name in ((first, "a.keras"), (second, "b.keras")):
        made.save(tmp_path / name)
    text = zipfile.ZipFile(tmp_path / "a.keras").read("privacy_history.json")
    second.model.save(tmp_path / "c.keras")
    with zipfile.ZipFile(tmp_path / "c.keras", "a") as archive:
        archive.writestr("privacy_history.json", text)
    with pytest.raises(BadInputError, match="that of other weights"):
        load_model(tmp_path / "c.keras")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 99}'])
def test_a_damaged_history_is_one_line(tmp_path: Path, text: str) -> None:
    made = private_of(network())
    made.save_weights(tmp_path / "w")
    (tmp_path / "w.privacy_history.json").write_text(text)
    with pytest.raises(BadInputError, match="w: it"):
        load_weights(network(), tmp_path / "w")
