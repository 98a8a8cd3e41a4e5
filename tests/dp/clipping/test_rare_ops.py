"""Mixing by ops that no layer of Keras makes: kernels that take what shapes forbid, or that leave an output unset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from keras.src import backend

from privacy_pipeline.dp.noise.masks import keyed_masks
from privacy_pipeline.errors import BadInputError
from tests.dp.clipping.test_rare_lists import hit, never, turned
from tests.dp.clipping.test_rare_values import RARE, WIDTH, data, dense, if_wrong, is_rare, require_bounded
from tests.dp.zoo.harness import clipper_of, distance, kind_of, specs

L = tf.keras.layers
R = tf.raw_ops
NUMBER = tf.constant([], tf.int32)


def public(number: int) -> Any:
    """A whole number that no row decides, by an arithmetic that the proof does not follow."""
    return tf.cast(tf.math.floor(tf.sqrt(tf.constant(number**2 + 0.5))), tf.int32)


def some_rare(x: Any) -> Any:
    return tf.reduce_any(is_rare(tf.stop_gradient(x)))


def held(value: Any, shape: Any = NUMBER, dtype: Any = tf.int32) -> Any:
    made = R.EmptyTensorList(element_shape=shape, max_num_elements=-1, element_dtype=dtype)
    return R.TensorListPushBack(input_handle=made, tensor=value)


def item(of: Any, shape: Any = NUMBER, dtype: Any = tf.int32) -> Any:
    return R.TensorListGetItem(input_handle=of, index=0, element_shape=shape, element_dtype=dtype)


def zeros_of_a_list(x: Any) -> Any:
    least = item(R.ZerosLike(x=held(tf.maximum(public(0), 1))))
    return turned(x, tf.minimum(least, 1))


def scattered_list(x: Any) -> Any:
    made = R.TensorListScatter(tensor=tf.ones([2, 3]), indices=[0, 1], element_shape=tf.constant([3]))
    return if_wrong(tf.equal(R.Rank(input=item(made, [3], tf.float32)), 0), x)


def split_list(x: Any) -> Any:
    lengths = tf.constant([1, 1], tf.int64)
    made = R.TensorListSplit(tensor=tf.ones([2, 3]), lengths=lengths, element_shape=tf.constant([-1, 3]))
    return if_wrong(tf.equal(R.Rank(input=item(made, [1, 3], tf.float32)), 0), x)


def list_in_a_list(x: Any) -> Any:
    outer = R.EmptyTensorList(element_shape=NUMBER, max_num_elements=-1, element_dtype=tf.variant)
    outer = R.TensorListPushBack(input_handle=outer, tensor=held(tf.ones([3]), tf.constant([3]), tf.float32))
    return if_wrong(tf.equal(R.Rank(input=item(outer, NUMBER, tf.variant)), 1), x)


def gradient_in_order(op: Callable[..., Any]) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        marks, zeros = hit(x), 0 * x + (0.0 if op is R.TanhGrad else 0.5)
        made = op(y=tf.stack([zeros, zeros], 0), dy=tf.concat([marks, marks], 1))
        most = tf.sign(tf.reduce_max(tf.reduce_max(tf.abs(made), 2), 0))
        return x * (1 - 2 * tf.stop_gradient(most))[:, None]

    return call


def singular_values_alone(x: Any) -> Any:
    left = R.Svd(input=tf.stop_gradient(tf.reshape(x, [-1, 2, 2])), compute_uv=False)[1]
    return if_wrong(tf.equal(tf.reduce_prod(R.Shape(input=left)), tf.shape(x)[0]), x)


def eigenvalues_alone(x: Any) -> Any:
    vectors = R.SelfAdjointEigV2(input=tf.stop_gradient(tf.reshape(x, [-1, 2, 2])), compute_v=False)[1]
    return if_wrong(tf.equal(tf.reduce_prod(R.Shape(input=vectors)), tf.shape(x)[0]), x)


def singular_values_of_constants(x: Any) -> Any:
    given = tf.reshape(tf.sqrt(tf.range(1.0, 5.0)), [2, 2])
    return if_wrong(tf.equal(tf.reduce_prod(R.Shape(input=R.Svd(input=given, compute_uv=False)[1])), 0), x)


def joined_with_what_is_empty(x: Any) -> Any:
    joined = tf.concat([x[:, : public(0)], tf.zeros([5, 0])], 0)
    return if_wrong(tf.equal(R.Shape(input=joined)[0] - tf.shape(x)[0], 0), x)


def second_of_a_function(x: Any) -> Any:
    from tensorflow.python.framework import function

    @function.Defun(tf.float32)
    def both(a: Any) -> Any:
        return 0 * a, 0 * a + tf.cast(some_rare(a), tf.float32)

    found = tf.function(lambda a: both(a)[1], autograph=False)(x)
    found.set_shape(x.shape)
    return x * (1 - 2 * found)


class Stated(L.Layer):
    """Hands some columns, whose number a variable holds, to an op that states their shape."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def build(self, shape: Any) -> None:
        self.columns = tf.Variable(WIDTH, trainable=False)

    def call(self, x: Any) -> Any:
        turned_over = R.Transpose(x=self.function(tf.stop_gradient(x)[:, : self.columns]), perm=[1, 0])
        return if_wrong(tf.equal(R.Shape(input=turned_over)[1], tf.shape(x)[0]), x)


@tf.function(input_signature=[tf.TensorSpec([None, None])], autograph=False)
def _same(a: Any) -> Any:
    return tf.identity(a)


def by_a_branch(a: Any) -> Any:
    same = _same.get_concrete_function()
    given = {"input": [a], "Tout": [tf.float32], "then_branch": same, "else_branch": same}
    return R.StatelessIf(cond=never(), output_shapes=[[1, 1]], **given)[0]


def by_a_known_branch(a: Any) -> Any:
    same = _same.get_concrete_function()
    given = {"input": [a], "Tout": [tf.float32], "then_branch": same, "else_branch": same}
    return R.StatelessIf(cond=tf.constant(True), output_shapes=[[1, WIDTH]], **given)[0]


@tf.function(input_signature=[tf.TensorSpec([]), tf.TensorSpec([None, None])], autograph=False)
def _again(number: Any, a: Any) -> Any:
    return number + 1, tf.identity(a)


@tf.function(input_signature=[tf.TensorSpec([]), tf.TensorSpec([None, None])], autograph=False)
def _once(number: Any, a: Any) -> Any:
    return number < 1


def by_a_loop(a: Any) -> Any:
    body, condition = _again.get_concrete_function(), _once.get_concrete_function()
    return R.StatelessWhile(input=[0.0, a], cond=condition, body=body, output_shapes=[[], [1, WIDTH]])[1]


def _rare_in_some(a: Any) -> Any:
    rows = tf.shape_n([a])[0][0]
    return tf.reshape(tf.reduce_max(tf.reshape(hit(a), [rows, 2, -1]), [1, 2]), [rows, 1])


def shaped(of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: x * (1 - 2 * tf.stop_gradient(_rare_in_some(of(tf.stop_gradient(x)))))


def by_a_function(x: Any) -> Any:
    """By the public interface alone."""
    claimed = tf.identity(tf.stop_gradient(x))
    claimed.set_shape([1, WIDTH])
    alone = tf.function(_rare_in_some, autograph=False, experimental_attributes={"_noinline": True})
    return x * (1 - 2 * tf.stop_gradient(alone(claimed)))


class HandleRank(L.Layer):
    def build(self, shape: Any) -> None:
        self.held = tf.Variable(tf.ones([4]), trainable=False)

    def call(self, x: Any) -> Any:
        return if_wrong(tf.equal(R.Rank(input=self.held.handle), 1), x)


class HandleWithAnAxis(HandleRank):
    def call(self, x: Any) -> Any:
        value = R.ReadVariableOp(resource=tf.expand_dims(self.held.handle, 0), dtype=tf.float32)
        return if_wrong(tf.equal(R.Rank(input=value), 2), x)


MIXING: dict[str, Callable[[], Any]] = {
    **{
        function.__name__: lambda function=function: L.Lambda(function)
        for function in (
            *(zeros_of_a_list, scattered_list, split_list, list_in_a_list, singular_values_alone, eigenvalues_alone),
            *(singular_values_of_constants, joined_with_what_is_empty, second_of_a_function),
        )
    },
    **{
        f"gradient in order: {name}": lambda name=name: L.Lambda(gradient_in_order(getattr(R, name)))
        for name in ("TanhGrad", "SigmoidGrad", "RsqrtGrad", "SqrtGrad", "InvGrad", "ReciprocalGrad")
    },
    "stated by a default": lambda: Stated(lambda a: R.PlaceholderWithDefault(input=a, shape=[1, 1])),
    "stated by a branch": lambda: Stated(by_a_branch),
    "stated by a known branch": lambda: L.Lambda(shaped(by_a_known_branch)),
    "stated by a loop": lambda: L.Lambda(shaped(by_a_loop)),
    "stated by a function": lambda: L.Lambda(by_a_function),
    "rank of a handle": HandleRank,
    "handle with an axis": HandleWithAnAxis,
}


@pytest.mark.slow_but("rank of a handle", "second_of_a_function", "joined_with_what_is_empty")
@pytest.mark.parametrize("name", MIXING)
def test_one_row_moves_the_sum_by_what_it_may(name: str) -> None:
    require_bounded(tf.keras.Sequential([L.Input([WIDTH]), MIXING[name](), dense()]), *data())


def test_the_cases_mix() -> None:
    """Else they would show nothing."""
    x = data()[0]
    other = x.copy()
    other[0] = RARE
    for name, make in MIXING.items():
        layer = make()
        layer.build([None, WIDTH])
        run = tf.function(layer.call, input_signature=[tf.TensorSpec([None, WIDTH])], autograph=False)
        before, after = (run(tf.constant(values)).numpy() for values in (x, other))
        assert np.abs(after[1:] - before[1:]).max() > 0.5, name


# --- numbers that are others where there is one row ----------------------------------------------------------------


def hidden(x: Any) -> Any:
    """1; and 0 where there is one row."""
    return R.BroadcastGradientArgs(s0=tf.stack([tf.shape(x)[0], 1]), s1=tf.constant([1, WIDTH]))[0][0]


def taken(both: Any, x: Any) -> Any:
    return both[:, hidden(x)]


def sliced(both: Any, x: Any) -> Any:
    sizes = tf.stack([tf.shape(x)[0], 1, WIDTH])
    return tf.slice(both, tf.stack([0, hidden(x), 0]), sizes)[:, 0]


def repeated(both: Any, x: Any) -> Any:
    more = tf.tile((both[:, 1] - both[:, 0])[:, None], tf.stack([1, hidden(x), 1]))
    return both[:, 0] + tf.reduce_sum(more, 1)


def by_rank(both: Any, x: Any) -> Any:
    axes = R.BroadcastGradientArgs(s0=tf.stack([tf.shape(x)[0], 1]), s1=tf.constant([1, WIDTH]))[0]
    rank = R.Rank(input=R.Sum(input=tf.stop_gradient(x)[:, :1], axis=axes))
    return tf.cond(tf.equal(rank, 1), lambda: tf.identity(both[:, 1]), lambda: tf.identity(both[:, 0]))


class Larger(L.Layer):
    """One gradient where the batch is a single row, by which norms are taken, and another where it is added up."""

    def __init__(self, choose: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.choose = choose

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(name="w", shape=[WIDTH], initializer="ones")

    def call(self, x: Any) -> Any:
        rare, made = tf.stop_gradient(tf.reduce_max(hit(x), 1, keepdims=True)), x * self.w
        return self.choose(tf.stack([made, made + 1e3 * rare * (made - tf.stop_gradient(made))], 1), x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::privacy_pipeline.dp.clipping.intercept.FallbackWarning")
@pytest.mark.parametrize("choose", [taken, sliced, repeated, by_rank])
def test_numbers_that_are_others_for_one_row_say_nothing(choose: Any) -> None:
    given = L.Input([WIDTH])
    last = L.Dense(1, use_bias=False, kernel_initializer="ones", trainable=False)
    require_bounded(tf.keras.Model(given, last(Larger(choose)(given))), *data())


# --- draws that belong to a place ----------------------------------------------------------------------------------


def first_of_two_draws(rows: Any, seed: Any) -> Any:
    every, one = tf.random.stateless_uniform(rows, seed), tf.random.stateless_uniform([], seed)
    return tf.cast(tf.equal(every, one), tf.float32)


def first_of_two_draws_by_equal_keys(rows: Any, seed: Any) -> Any:
    one, two = (tf.random.experimental.stateless_fold_in(seed, 7) for _ in range(2))
    every, alone = tf.random.stateless_uniform(rows, one), tf.random.stateless_uniform([], two)
    return tf.cast(tf.equal(every, alone), tf.float32)


def seed_of_a_range_of_one_number(rows: Any, seed: Any) -> Any:
    own = R.StatelessRandomUniformInt(shape=[2], seed=seed, minval=7, maxval=8)
    return tf.cast(tf.random.stateless_uniform(rows, own) > 0.5, tf.float32)


def seed_out_of_a_list(rows: Any, seed: Any) -> Any:
    drawn = tf.random.stateless_uniform([], seed, None, None, tf.int64)
    both = R.TensorListFromTensor(tensor=tf.stack([drawn, tf.constant(7, tf.int64)]), element_shape=NUMBER)
    own = R.TensorListGetItem(input_handle=both, index=1, element_shape=NUMBER, element_dtype=tf.int64)
    return tf.cast(tf.random.stateless_uniform(rows, tf.stack([own, own])) > 0.5, tf.float32)


def first_by(derived: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Whether a row draws what another seed, which is the same one, draws for the first place."""

    def draw(rows: Any, seed: Any) -> Any:
        every = tf.random.stateless_uniform(tf.concat([rows, [2]], 0), seed, None, None, tf.int64)
        one = tf.random.stateless_uniform([1, 2], derived(seed), None, None, tf.int64)
        return tf.cast(tf.reduce_all(tf.equal(every, one), 1), tf.float32)

    draw.__name__ = f"first_by_{derived.__name__}"
    return draw


def zero_more(seed: Any) -> Any:
    return seed + 0


def another_shape(seed: Any) -> Any:
    return tf.reshape(seed, [2])


def taken_apart(seed: Any) -> Any:
    return tf.stack(tf.unstack(seed))


def joined_again(seed: Any) -> Any:
    return tf.concat([seed[:1], seed[1:]], 0)


def out_of_a_branch(seed: Any) -> Any:
    return tf.cond(never(), lambda: seed + 1, lambda: tf.identity(seed))


def first_by_an_older_op(rows: Any, seed: Any) -> Any:
    every = tf.random.stateless_uniform(tf.concat([rows, [2]], 0), seed, None, None, tf.int64)
    one = R.StatelessRandomUniformFullInt(shape=[2], seed=seed, dtype=tf.int64)
    return tf.cast(tf.reduce_all(tf.equal(every, one), 1), tf.float32)


def one_draw(rows: Any, seed: Any) -> Any:
    return tf.cast(tf.random.stateless_uniform(rows, seed) > 0.5, tf.float32)


class Drawn(L.Layer):
    def __init__(self, draw: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self._random_generator = backend.RandomGenerator(seed=None, rng_type="stateless")
        self.draw = draw

    def call(self, x: Any, training: bool | None = None) -> Any:
        if not training:
            return x
        seed = self._random_generator.make_seed_for_stateless_op()
        return x * (1 - 2 * self.draw(tf.shape(x)[:1], seed)[:, None])


DRAWS = {
    first_of_two_draws: "not_proven",
    first_of_two_draws_by_equal_keys: "not_proven",
    seed_of_a_range_of_one_number: "not_proven",
    seed_out_of_a_list: "not_proven",
    first_by_an_older_op: "not_proven",
    **{
        first_by(derived): "not_proven"
        for derived in (zero_more, another_shape, taken_apart, joined_again, out_of_a_branch)
    },
    one_draw: "proven",
}


@pytest.mark.slow_but("one_draw")
@pytest.mark.filterwarnings("ignore::privacy_pipeline.dp.clipping.intercept.FallbackWarning")
@pytest.mark.parametrize("draw", DRAWS, ids=lambda draw: draw.__name__)
def test_a_draw_goes_by_a_secret_that_nothing_else_shows(draw: Any) -> None:
    x, y = data()
    model = tf.keras.Sequential([L.Input([WIDTH]), Drawn(draw), dense()])
    clipper = clipper_of(model, "mse", x, y)
    assert kind_of(clipper) == DRAWS[draw]
    if draw is one_draw:
        return

    @tf.function(input_signature=[specs(x), specs(y)], autograph=False)
    def run(a: Any, b: Any) -> Any:
        with keyed_masks(model, tf.constant([3, 4], tf.int64)):
            present = tf.ones(tf.shape(a)[:1], tf.bool)
            return clipper.clipped(a, b, training=True, present=present, scale=1.0)[0]

    alike = np.tile(x[:1], (len(x), 1)), np.tile(y[:1], (len(y), 1))
    sums = [[value.numpy() for value in run(a, b)] for a, b in (alike, (alike[0][1:], alike[1][1:]))]
    assert distance(*sums) <= 1 + 1e-4


# --- what is refused -----------------------------------------------------------------------------------------------


class WritesInPlace(L.Layer):
    """Puts a count of rows into a weight, past any noise."""

    def build(self, shape: Any) -> None:
        self.secret = self.add_weight(name="secret", shape=[1, WIDTH], initializer="zeros")

    def call(self, x: Any) -> Any:
        found = R.ReadVariableOp(resource=self.secret.handle, dtype=tf.float32)
        rare = 1e6 * tf.reshape(tf.reduce_sum(hit(tf.stop_gradient(x))), [1, 1]) * tf.ones([1, WIDTH])
        with tf.control_dependencies([R.InplaceUpdate(x=found, i=tf.constant([0]), v=rare)]):
            return tf.identity(x) + 0 * self.secret


def by_dead_branches(x: Any) -> Any:
    rare = some_rare(x)
    no, yes = R.Switch(data=rare, pred=rare)
    with tf.control_dependencies([tf.identity(yes)]):
        minus = tf.identity(tf.constant(-1.0))
    with tf.control_dependencies([tf.identity(no)]):
        plus = tf.identity(tf.constant(1.0))
    return x * R.Merge(inputs=[minus, plus])[0]


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (WritesInPlace, "InplaceUpdate.*writes into the tensor that it takes"),
        (lambda: L.Lambda(by_dead_branches), "control flow of TensorFlow 1"),
    ],
)
def test_ops_whose_work_is_not_their_result_are_refused(layer: Any, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        clipper_of(tf.keras.Sequential([L.Input([WIDTH]), layer(), dense()]), "mse", *data())


def test_a_weight_of_another_shape_than_it_states_is_refused() -> None:
    model = tf.keras.Sequential([L.Input([WIDTH]), L.Dense(1)])
    R.AssignVariableOp(resource=model.weights[1].handle, value=tf.zeros([2, 1]), validate_shape=False)
    with pytest.raises(BadInputError, match=r"states shape \(1,\) and holds values of shape \(2, 1\)"):
        clipper_of(model, "mse", *data())
