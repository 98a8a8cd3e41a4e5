"""What is killed: registrations, changes of a key, runs of each backend."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf
import yaml

from privacy_pipeline.pipelines.workspace.workspace import readable_runs
from tests.e2e.kills import victims
from tests.e2e.kills.commands import Ended, Place, run
from tests.pipelines.projects import write_project

CONFIG = "c.yaml"
REGISTER = ("budget", "register", CONFIG, "--epsilon", "100", "--delta", "1e-5")
_SILOS = {"red": 54, "green": 53, "blue": 53}  # of the 160 rows of the train split
_FEDERATED: dict[str, Any] = {
    "backend": "federated",
    "federated": {
        "silo_privacy": {
            "noise_multiplier": 4.0,
            "delta": 1e-5,
            "clipping_norm": 1.0,
            "column": "colour",
            "silos": _SILOS,
        }
    },
}


_MODEL = """\
import tensorflow as tf
def build_model(context):
    (name, spec), = context.inputs.items()
    given = tf.keras.Input(spec.shape, dtype=spec.dtype, name=name)
    return tf.keras.Model(given, tf.keras.layers.Dense(1)(tf.keras.layers.Dense(8, activation="relu")(given)))
"""


def make_project(root: Path, *, backend: str = "dp_sgd", **sections: Any) -> None:
    """A small project whose config has no path but those below its folder."""
    root.mkdir(parents=True)
    lenient = {"thresholds": {"accuracy": {"min": 0.01}}}
    config = write_project(root, backend=backend, **({"evaluation": lenient} | sections))
    text = yaml.safe_dump(config.model_dump(mode="json", by_alias=True, exclude_unset=True))
    (root / CONFIG).write_text(text.replace(f"sqlite:///{root}/", "sqlite:///").replace(f"{root}/", ""))


class Registration:
    """A registration in a project where nothing is registered."""

    name, until, who = "register", "", ("command",)

    def __init__(self, base: Path) -> None:
        self._base = base
        make_project(base)

    def fresh(self, root: Path) -> None:
        shutil.copytree(self._base, root)

    def first(self, chance: random.Random) -> tuple[str, ...]:
        return REGISTER

    def after(self, place: Place, args: tuple[str, ...]) -> tuple[str, ...]:
        return args

    def is_over(self, ended: Ended) -> bool:
        return ended.code == 0

    def problems(self, place: Place, ended: Ended) -> Iterator[str]:
        yield from ()


class Rotation(Registration):
    """A new key for a ledger."""

    name = "rotate-key"

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        _done(Place(base, base / "memory"), *REGISTER)

    def first(self, chance: random.Random) -> tuple[str, ...]:
        return ("budget", "rotate-key", "--ledger", "sqlite:///ledger/ledger.db")


class Run:
    """A run of DP-SGD in a project in which one run is done: nodes before the training come from the cache."""

    name, until, who = "run", "", victims.WHO
    options: tuple[str, ...] = ("--set", "training.learning_rate=0.02")

    def __init__(self, base: Path) -> None:
        self._base = base
        self._make(base)
        place = Place(base, base.with_name(f"{base.name}.memory"))
        place.memory.mkdir()
        _done(place, *REGISTER)
        _done(place, "run", CONFIG)
        self._known = _runs(base)

    def _make(self, base: Path) -> None:
        make_project(base)

    def fresh(self, root: Path) -> None:
        shutil.copytree(self._base, root, symlinks=True)

    def first(self, chance: random.Random) -> tuple[str, ...]:
        return ("run", CONFIG, *self.options)

    def after(self, place: Place, args: tuple[str, ...]) -> tuple[str, ...]:
        """A run that was begun is resumed; where none was, the same is typed again."""
        new = [name for name in _runs(place.root) if name not in self._known]
        return ("resume", new[-1]) if new else args

    def is_over(self, ended: Ended) -> bool:
        """It ended, or it had ended before and its command was killed after that."""
        return ended.code == 0 or (ended.code == 2 and " is finished (" in ended.err)

    def problems(self, place: Place, ended: Ended) -> Iterator[str]:
        """A run that ended well has pushed a model that loads."""
        if ended.code != 0:
            return
        pushed = sorted((place.root / "workspace/pushed/things").glob("[0-9]*"))
        if not pushed:
            yield "nothing was pushed"
        for version in pushed[-1:]:
            tf.saved_model.load(str(version))


class WholeRun(Run):
    """A run of DP-SGD in which every node is executed, with a model that is built away from the data."""

    name = "whole run"
    options = ("--set", "cache=false")

    def _make(self, base: Path) -> None:
        make_project(base, model={"use": "thing_model"})
        (base / "thing_model.py").write_text(_MODEL)


class FederatedRun(Run):
    """A run of the federated backend with privacy inside of silos."""

    name = "federated run"
    options = ("--set", "training.epochs=3")

    def _make(self, base: Path) -> None:
        make_project(base, backend="federated", training=_FEDERATED)


def _runs(root: Path) -> list[str]:
    return [folder.run_id for folder, _ in readable_runs(root / "workspace")]


def _done(place: Place, *args: str) -> None:
    ended = run(place, *args)
    assert ended.code == 0, ended.out + ended.err
