"""Users as privacy units: their summed gradients against brute force, what they may move, and who is picked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy_pipeline.dp import ExampleStore, PrivacyPlan, UserBound, make_private
from privacy_pipeline.dp.clipping.gradients import BookKeeping, Vectorised
from privacy_pipeline.dp.sampling.users import UserIndex, in_slots
from privacy_pipeline.dp.training.choice import choose_clipper
from privacy_pipeline.errors import BadInputError

L = tf.keras.layers
SLOTS = 3
TAKEN = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0]], bool)


def user_case(made: Any, case_type: Any, seed: int = 0) -> tuple[Any, np.ndarray]:
    """A case of 4 users with 3 slots each; free slots repeat the user's first example, or hold NaN for nobody's."""
    random = np.random.default_rng(seed)
    shape = made.x.shape[1:]
    integers = not made.x.dtype.is_floating
    x = random.integers(0, 4, (12, *shape)) if integers else random.normal(size=(12, *shape))
    y = random.normal(size=(12, 2))
    for user, taken in enumerate(TAKEN):
        for slot in np.flatnonzero(~taken):
            x[user * SLOTS + slot] = x[user * SLOTS]
            y[user * SLOTS + slot] = y[user * SLOTS] if taken.any() else np.nan
    return case_type(made.model, tf.constant(x, made.x.dtype), tf.constant(y, tf.float32), norm=1.5), TAKEN.reshape(-1)


def by_hand(case: Any, present: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Norms of the users' summed gradients, [users], and the clipped sum."""
    norms, sums = [], [np.zeros(v.shape) for v in case.variables]
    for user in range(len(TAKEN)):
        rows = [user * SLOTS + slot for slot in range(SLOTS) if present[user * SLOTS + slot]]
        total = [sum(parts) for parts in zip(*map(case.single, rows), strict=True)] if rows else [0 * s for s in sums]
        norms.append(np.sqrt(sum(np.square(part).sum() for part in total)))
        for place, part in enumerate(total):
            sums[place] = sums[place] + part * min(1.0, case.norm / max(norms[-1], 1e-30))
    return np.array(norms), sums


def clippers(case: Any) -> list[Any]:
    options = {"losses": case.losses, "variables": case.variables, "groups": case.groups, "memory_cap": 4096}
    return [BookKeeping(model=case.model, rows=SLOTS, **options), Vectorised(rows=SLOTS, **options)]


def summed(clipper: Any, case: Any, present: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    @tf.function(autograph=False)
    def run(x: Any, y: Any, kept: Any) -> Any:
        norms = clipper.squared_norms(x, y, training=False, present=kept)
        return clipper.clipped_sum(x, y, training=False, present=kept), norms

    sums, norms = run(case.x, case.y, tf.constant(present))
    return [value.numpy() for value in sums], np.sqrt(sum(norm.numpy() for norm in norms))


class Attention(L.Layer):
    """Self-attention, as a layer of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = L.MultiHeadAttention(2, 3)

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs, inputs)


LAYERS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "dense": (lambda: [L.Dense(3, "tanh")], (4,), 0),
    "sequence": (lambda: [L.Dense(3, "tanh"), L.LayerNormalization()], (5, 4), 0),
    "conv": (lambda: [L.Conv2D(3, 2, activation="tanh"), L.DepthwiseConv2D(2)], (5, 5, 2), 0),
    "wide_conv": (lambda: [L.Conv2D(20, 3, strides=2)], (5, 5, 20), 0),
    "embedding": (lambda: [L.Embedding(4, 3), L.LSTM(2)], (5,), 4),
    "attention": (lambda: [Attention(), L.GRU(2)], (4, 3), 0),
    "fallback": (lambda: [L.Dense(3), L.PReLU()], (4,), 0),
}


@pytest.mark.slow_but("dense")
@pytest.mark.parametrize("name", list(LAYERS))
def test_sums_of_users_equal_brute_force(make_case: Any, case_type: Any, name: str) -> None:
    layers, shape, integers = LAYERS[name]
    case, present = user_case(make_case(layers(), shape, integers=integers), case_type)
    norms, right = by_hand(case, present)
    assert norms[2] == 0
    assert (norms > case.norm).any()
    # Vectorised differentiation knows no layers, and is slow where it has to loop.
    for clipper in clippers(case)[: 1 if name in ("embedding", "attention", "fallback") else 2]:
        found, found_norms = summed(clipper, case, present)
        np.testing.assert_allclose(found_norms[norms > 0], norms[norms > 0], rtol=1e-5)
        for value, expected in zip(found, right, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_layer_that_is_used_twice_and_the_probe(case_type: Any) -> None:
    inputs, shared = L.Input((3, 4)), L.Dense(4, "tanh")
    model = tf.keras.Model(inputs, L.Dense(2)(L.Flatten()(shared(shared(inputs)))))
    case, present = user_case(case_type(model, tf.zeros([1, 3, 4]), tf.zeros([1, 2])), case_type)
    specs = [tf.TensorSpec([None, *v.shape[1:]], v.dtype) for v in (case.x, case.y)]
    clipper = choose_clipper(
        model=model, losses=case.losses, groups=case.groups, x=specs[0], y=specs[1], memory_cap=4096, rows=SLOTS
    )
    assert isinstance(clipper, BookKeeping)
    for value, expected in zip(summed(clipper, case, present)[0], by_hand(case, present)[1], strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e25])
def test_a_user_moves_the_sum_by_the_norm_at_most(make_case: Any, case_type: Any, scale: float) -> None:
    layers, shape, _ = LAYERS["sequence"]
    case, present = user_case(make_case(layers(), shape), case_type)
    other = np.array(case.x)
    other[:SLOTS] *= scale
    changed = case_type(case.model, tf.constant(other), case.y, norm=case.norm)
    gone = present.copy()
    gone[:SLOTS] = False
    for clipper in clippers(case):
        without = summed(clipper, case, gone)[0]
        for whole in (case, changed):
            moved = [a - b for a, b in zip(summed(clipper, whole, present)[0], without, strict=True)]
            assert np.sqrt(sum(np.square(part).sum() for part in moved)) <= case.norm * (1 + 1e-5)


def index_of(counts: list[int]) -> UserIndex:
    return UserIndex(np.arange(sum(counts)), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(counts=st.lists(st.integers(0, 6), min_size=1, max_size=8), most=st.integers(1, 4), data=st.data())
def test_picks_are_subsets_of_the_users_examples(counts: list[int], most: int, data: Any) -> None:
    index = index_of(counts)
    users = np.array(sorted(data.draw(st.sets(st.integers(0, len(counts) - 1)))), np.int64)
    rows, found = index.pick(users, most=most, generator=np.random.default_rng(data.draw(st.integers(0, 99))))
    assert found.tolist() == [min(counts[user], most) for user in users]
    for user, own in zip(users, np.split(rows, np.cumsum(found)[:-1]) if users.size else [], strict=True):
        assert len(set(own.tolist())) == own.size
        assert np.all((own >= index.offsets[user]) & (own < index.offsets[user + 1]))
    filled, taken = in_slots(rows, found, slots=most)
    assert filled[taken].tolist() == rows.tolist()
    for user, (own, kept) in enumerate(zip(filled.reshape(-1, most), taken.reshape(-1, most), strict=True)):
        assert kept.sum() == found[user]
        assert np.all(own[~kept] == (own[0] if kept.any() else -1))


def test_picks_are_uniform() -> None:
    index, generator = index_of([5, 2]), np.random.default_rng(0)
    seen = np.zeros(7)
    for _ in range(3000):
        seen[index.pick(np.array([0, 1]), most=2, generator=generator)[0]] += 1
    assert seen[5:].tolist() == [3000, 3000]
    assert np.all(np.abs(seen[:5] / 3000 - 0.4) < 5 * np.sqrt(0.24 / 3000))


def test_store_with_users_on_disk(tmp_path: Path) -> None:
    names = np.array(["b", "a", "b", "c", "a"])
    x, y = np.arange(10.0).reshape(5, 2), np.arange(5)
    store = ExampleStore.write(tmp_path / "store", [(x[:3], y[:3]), (x[3:], y[3:])], examples=5, users=names)
    again = ExampleStore.open(tmp_path / "store", like={"x": 0, "y": 0})
    for one in (store, again, ExampleStore.from_arrays(x, y, users=names)):
        assert one.users is not None
        assert [
            one.users.order[a:b].tolist() for a, b in zip(one.users.offsets, one.users.offsets[1:], strict=False)
        ] == [
            [1, 4],
            [0, 2],
            [3],
        ]
    assert isinstance(again.users.order, np.memmap)  # type: ignore[union-attr]
    assert store.digest() == ExampleStore.from_arrays(x, y, users=names).digest()
    assert store.digest() != ExampleStore.from_arrays(x, y, users=names[::-1]).digest()
    np.testing.assert_array_equal(store.rows(np.array([4, -1]))[0], [[8, 9], [0, 0]])
    with pytest.raises(BadInputError, match="same number"):
        ExampleStore.from_arrays(x, y, users=names[1:])
    with pytest.raises(BadInputError, match="whole number or string"):
        ExampleStore.from_arrays(x, y, users=[0.5] * 5)


OWNERS = np.array([0, 1, 1, 2, 2, 2, 3])


def plan(clip: str, **change: Any) -> PrivacyPlan:
    numbers: dict[str, Any] = {
        "units": 4,
        "expected_batch_size": 4,
        "steps": 1,
        "noise_multiplier": 1e-6,
        "delta": 1e-5,
        "clipping_norm": 0.5,
        "users": UserBound(max_examples=3, clip=clip),
    }
    return PrivacyPlan.calibrated(**{**numbers, **change})


def step_of(made: PrivacyPlan, **options: Any) -> np.ndarray:
    """What a step of gradient descent takes from weights of zero: the mean of the users' clipped gradients."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(7, 3)).astype(np.float32), random.normal(size=7).astype(np.float32)
    model = tf.keras.Sequential([L.Input((3,)), L.Dense(1, use_bias=False, kernel_initializer="zeros")])
    private = make_private(model, made, optimizer=tf.keras.optimizers.SGD(1.0), loss="mse", **options)
    assert private.fit(x, y, users=OWNERS).steps == 1
    return -np.array(model.get_weights()[0])[:, 0]


def expected_step(clip: str) -> np.ndarray:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(7, 3)), random.normal(size=7)
    each = -2 * y[:, None] * x
    total = np.zeros(3)
    for user in range(4):
        own = each[user == OWNERS]
        if clip == "each":
            own = own * np.minimum(1, (0.5 / 3) / np.linalg.norm(own, axis=1, keepdims=True))
        summed_up = own.sum(0)
        total += summed_up * min(1, 0.5 / np.linalg.norm(summed_up))
        assert clip == "sum" or np.linalg.norm(summed_up) <= 0.5
    return total / 4


@pytest.mark.slow_but("options0-sum")
@pytest.mark.parametrize("clip", ["sum", "each"])
@pytest.mark.parametrize("options", [{}, {"virtual_batch_size": 4}, {"virtual_batch_size": 1}])
def test_a_step_of_training_is_the_mean_over_users(clip: str, options: dict[str, Any]) -> None:
    np.testing.assert_allclose(step_of(plan(clip), **options), expected_step(clip), atol=1e-5)


@pytest.mark.parametrize("clip", ["sum", "each"])
def test_truncated_samples_of_users(clip: str) -> None:
    made = plan(clip, sampling="truncated_poisson", truncate_at=6)
    np.testing.assert_allclose(step_of(made), expected_step(clip), atol=1e-5)


def test_plans_of_users_and_examples_are_told_apart() -> None:
    made = plan("sum")
    assert made.unit == "user"
    assert made.parameters()["users"] == {"max_examples": 3, "clip": "sum"}
    assert plan("sum").digest() != plan("each").digest()
    x, y = np.zeros((7, 3)), np.zeros(7)
    model = tf.keras.Sequential([L.Input((3,)), L.Dense(1)])
    with pytest.raises(BadInputError, match="whose each example"):
        make_private(model, made, optimizer="sgd", loss="mse").fit(x, y)
    with pytest.raises(BadInputError, match="the data holds 7"):
        make_private(model, made, optimizer="sgd", loss="mse").fit(x, y, users=np.arange(7))
    with pytest.raises(BadInputError, match="protects examples"):
        make_private(model, plan("sum", users=None), optimizer="sgd", loss="mse").fit(x, y, users=OWNERS)
    with pytest.raises(BadInputError, match="unknown clip"):
        UserBound(max_examples=1, clip="mean")
