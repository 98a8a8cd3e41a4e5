"""Each line of the guide for those who come from Opacus and TensorFlow Privacy runs as it stands."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import privacy_pipeline.dp as dp
from privacy_pipeline.dp.clipping import registry
from privacy_pipeline.dp.mechanism.sampling import PoissonSampling

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "coming_from.md"
L = tf.keras.layers
NO_CODE = ("the default", "not offered", "register_rule", "privacy-pipeline")
SETTINGS = re.compile(r"^[a-z_]+=\S+$")  # an argument, shown by itself


def lines() -> list[tuple[str, str]]:
    """The two columns of the two tables."""
    text = GUIDE.read_text()
    tables = text[text.index("## From Opacus") : text.index("## Models of their tutorials")]
    rows = [line.strip("| ").split(" | ") for line in tables.splitlines() if line.startswith("| ")]
    return [(theirs, ours) for theirs, ours in rows if ours != "here"]


PLAN = dp.PrivacyPlan.calibrated(
    units=24, expected_batch_size=8, epochs=2, noise_multiplier=1.1, delta=1e-5, clipping_norm=1.0
)


def private(model: Any) -> Any:
    return dp.make_private(model, PLAN, optimizer="adam", loss="mse")


@cache
def made() -> Any:
    return private(network()).fit(*data())


def network() -> Any:
    return tf.keras.Sequential([L.Input((3,)), L.Dense(1)])


def data() -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    return random.normal(size=(24, 3)).astype(np.float32), random.normal(size=(24, 1)).astype(np.float32)


def names(code: str) -> dict[str, Any]:
    """What a line of the guide takes for given."""
    model, (x, y) = network(), data()
    found = {"x": x, "y": y, "public": (x, y), "model": model, "plan": PLAN, "private": private(model), "tf": tf}
    if "execution." in code or "print(execution" in code:
        found["execution"] = made()
    if "training." in code:
        found["training"] = private(network()).begin(x, y)
    if "with_batch_norm" in code:
        found["with_batch_norm"] = tf.keras.Sequential([L.Input((4, 4, 2)), L.BatchNormalization(), L.Conv2D(2, 3)])
    return {**{name: getattr(dp, name) for name in dp.__all__}, **found}


def code_of(ours: str) -> list[str]:
    return [
        code for code in re.findall(r"`([^`]+)`", ours) if not code.startswith(NO_CODE) and not SETTINGS.match(code)
    ]


@pytest.mark.slow_but(
    "PrivacyEngine().make_private(..., noise_multiplier",
    "DPKerasAdamOptimizer(l2_norm_clip=1.0, noise_multi",
    "TreeAggregationQuery`, DP-FTRL",
    "poisson_sampling=True",
    "membership inference attacks",
    "layer_registry.LayerRegistry.insert(...)",
    "DistributedDPDDP",
    "BoltOnModel",
    "@register_grad_sampler(MyLayer)",
)
@pytest.mark.parametrize(("theirs", "ours"), lines(), ids=[theirs.strip("`")[:50] for theirs, _ in lines()])
def test_a_line_runs(theirs: str, ours: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = [code for code in code_of(ours) if code not in ("clipping.registry",)]
    assert (
        codes or ours.startswith(NO_CODE) or ours.startswith("`register_rule") or ours.startswith("`privacy-pipeline")
    )
    if not codes:
        return
    monkeypatch.chdir(tmp_path)
    given = names(" ".join(codes))
    for code in codes:
        exec(code, given)
    assert np.isfinite(given["plan"].epsilon())


def has_rule(layer: Any) -> bool:
    model = tf.keras.Sequential([L.Input((3,)), layer])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        private(model).examine(*data())
    return not any("no clipping rule" in str(one.message) or "slower" in str(one.message) for one in told)


class Mine(L.Dense):  # type: ignore[misc]
    """A layer of a user's own, for which a rule is registered."""


class Other(L.Dense):  # type: ignore[misc]
    """One for which none is."""


def registers_a_rule() -> bool:
    if registry.rule_for(Mine(1)) is None:
        dp.register_rule(Mine)(registry.rule_for(L.Dense(1)))
    return has_rule(Mine(1)) and not has_rule(Other(1))


# What a line says that holds no code, or more than its code shows.
SAYS: dict[str, Callable[[], object]] = {
    "poisson_sampling=True": lambda: isinstance(PLAN.sampling, PoissonSampling),
    "secure_mode=True": lambda: made().cryptographic and "OS' entropy" in made().generator,
    "@register_grad_sampler(MyLayer)": registers_a_rule,
    "layer_registry.LayerRegistry.insert(...)": registers_a_rule,
}


@pytest.mark.parametrize("theirs", SAYS)
def test_what_a_line_says_is_so(theirs: str) -> None:
    assert any(one.strip("`") == theirs for one, _ in lines())
    assert SAYS[theirs]()


def test_a_line_without_code_is_held_by_another_test() -> None:
    silent = {theirs.strip("`") for theirs, ours in lines() if not code_of(ours) and "not offered" not in ours}
    assert silent <= {*SAYS, "membership inference attacks"}  # tests/dp/attacks/test_membership.py


def test_each_table_has_its_lines() -> None:
    assert len(lines()) >= 28
    assert sum(bool(code_of(ours)) for _, ours in lines()) >= 22


def test_the_names_of_the_guide_are_public() -> None:
    assert {"register_rule", "validate", "load_model", "AdaptiveClipping", "UserBound"} <= set(dp.__all__)
