"""The allow-list of stateful ops: each kind that it refuses, in nested functions too, and each that it lets through."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.dp import PrivacyPlan, make_private
from privacy_pipeline.dp.graphs.graph_state import (
    RefusedOp,
    refused_ops,
    require_stateless,
    require_unchanged,
    snapshot,
    static_tables,
)
from privacy_pipeline.dp.graphs.graph_walk import Walk
from privacy_pipeline.dp.noise.masks import keyed_masks, unkeyed_randomness
from privacy_pipeline.errors import BadInputError, PipelineError

L = tf.keras.layers
pytestmark = pytest.mark.usefixtures("no_seed")
lookup = tf.lookup
ROWS = tf.TensorSpec([None, 4], tf.float32)


def graph_of(function: Callable[[Any], Any]) -> Any:
    def run(x: Any) -> Any:
        return tensors(function(x), x)

    return tf.function(run, input_signature=[ROWS], autograph=False).get_concrete_function().graph


def tensors(result: Any, otherwise: Any) -> Any:
    """What a function gave, if it is a tensor: ops that write give none."""
    return result if isinstance(result, tf.Tensor) else otherwise


def refused(function: Callable[[Any], Any]) -> list[RefusedOp]:
    return refused_ops(graph_of(function))


def keys_of(x: Any) -> Any:
    return tf.strings.reduce_join(tf.strings.as_string(x), axis=1)


def counting(x: Any) -> Any:
    return tf.ones(tf.shape(x)[:1], tf.int64)


def writes_to(kind: str) -> Callable[[Any], Any]:
    """A function that hands its rows to something that keeps or shows them."""
    mutable = lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    dense = lookup.experimental.DenseHashTable(tf.string, tf.int64, -1, "", "deleted")
    queue = tf.queue.FIFOQueue(10, [tf.float32])
    raw = tf.raw_ops
    counter = tf.Variable(0.0)
    moving = tf.Variable(tf.zeros([4]))
    generator = tf.random.Generator.from_seed(1)
    dataset = tf.data.Dataset.from_tensor_slices([1.0, 2.0])

    def summary(x: Any) -> Any:
        handle = raw.SummaryWriter(shared_name="s", container="")
        raw.WriteScalarSummary(writer=handle, step=tf.constant(0, tf.int64), tag="x", value=x[0, 0])

    def barrier(x: Any) -> Any:
        return raw.Barrier(component_types=[tf.float32], shapes=[[4]], capacity=-1, container="", shared_name="b")

    def iterated(x: Any) -> Any:
        return next(iter(dataset))

    found: dict[str, Callable[[Any], Any]] = {
        "mutable table": lambda x: mutable.insert(keys_of(x), counting(x)),
        "reading a mutable table": lambda x: mutable.lookup(keys_of(x)),
        "dense table": lambda x: dense.insert(keys_of(x), counting(x)),
        "queue": lambda x: queue.enqueue(x[0]),
        "barrier": barrier,
        "staging area": lambda x: raw.Stage(values=[x], shared_name="s", container=""),
        "map staging area": lambda x: raw.MapStage(
            key=tf.constant(1, tf.int64), indices=[0], values=[x], dtypes=[tf.float32]
        ),
        "file": lambda x: tf.io.write_file("rows", keys_of(x)[0]),
        "checkpoint": lambda x: raw.SaveV2(prefix="p", tensor_names=["x"], shape_and_slices=[""], tensors=[x]),
        "py_function": lambda x: tf.py_function(lambda v: v, [x], tf.float32),
        "numpy_function": lambda x: tf.numpy_function(lambda v: v, [x], tf.float32),
        "stateless numpy_function": lambda x: tf.numpy_function(lambda v: v, [x], tf.float32, stateful=False),
        "print": lambda x: tf.print(x),
        "old print": lambda x: tf.compat.v1.Print(x, [x]),
        "summary": summary,
        "check_numerics": lambda x: tf.debugging.check_numerics(x, "rows"),
        "assertion that shows rows": lambda x: tf.debugging.Assert(tf.reduce_all(x > 0), [x]),
        "assign": lambda x: moving.assign(tf.reduce_mean(x, 0)),
        "assign_add": lambda x: counter.assign_add(tf.reduce_sum(x)),
        "scatter": lambda x: moving.scatter_nd_update([[0]], [x[0, 0]]),
        "generator of the model": lambda x: x + generator.uniform(tf.shape(x)),
        "iterator": iterated,
        "learned sampler": lambda x: tf.random.learned_unigram_candidate_sampler(tf.cast(x, tf.int64), 4, 2, False, 10),
        "draw of a fixed seed": lambda x: x + tf.random.uniform(tf.shape(x), seed=5),
        "shuffle of a fixed seed": lambda x: tf.random.shuffle(x, seed=5),
        "shuffling queue": lambda x: raw.RandomShuffleQueueV2(component_types=[tf.float32], shared_name="r"),
    }
    return found[kind]


KINDS = (
    *("mutable table", "reading a mutable table", "dense table", "queue", "barrier", "staging area"),
    *("map staging area", "file", "checkpoint", "py_function", "numpy_function", "stateless numpy_function"),
    *("print", "old print", "summary", "check_numerics", "assertion that shows rows", "assign", "assign_add"),
    *("draw of a fixed seed", "shuffle of a fixed seed"),
    *("scatter", "generator of the model", "iterator", "learned sampler", "shuffling queue"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_what_keeps_or_shows_rows_is_refused(kind: str) -> None:
    found = refused(writes_to(kind))
    assert found
    assert all(op.kind in ("keeps", "shows") for op in found)
    assert all(op.why and op.instead for op in found)


def in_loop(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def looped(x: Any) -> Any:
        def body(i: Any) -> Any:
            with tf.control_dependencies([function(x)]):
                return [i + 1]

        return tf.while_loop(lambda i: i < 2, body, [tf.constant(0)])

    return looped


def in_branch(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def write(x: Any) -> Any:
        with tf.control_dependencies([function(x)]):
            return tf.constant(1)

    return lambda x: tf.cond(x[0, 0] > 0, lambda: write(x), lambda: tf.constant(0))


def in_map(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def each(row: Any) -> Any:
        with tf.control_dependencies([function(row[tf.newaxis])]):
            return row + 1

    return lambda x: tf.map_fn(each, x)


def in_function(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: tf.function(lambda v: tensors(function(v), v), autograph=False)(x)


def in_gradient(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @tf.custom_gradient
    def honest(x: Any) -> Any:
        def backward(upstream: Any) -> Any:
            with tf.control_dependencies([function(upstream)]):
                return tf.identity(upstream)

        return x * 2, backward

    def run(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(honest(x))
        return tape.gradient(total, x)

    return run


NESTS = (in_loop, in_branch, in_map, in_function, in_gradient, lambda f: in_loop(in_branch(in_function(f))))


@pytest.mark.parametrize("nest", NESTS, ids=["loop", "branch", "map", "function", "gradient", "all"])
@pytest.mark.parametrize("kind", ["assign_add", "mutable table", "queue", "print", "numpy_function"])
def test_nothing_hides_in_a_nested_function(nest: Any, kind: str) -> None:
    assert refused(nest(writes_to(kind)))


@pytest.mark.parametrize("nest", NESTS, ids=["loop", "branch", "map", "function", "gradient", "all"])
def test_writes_of_the_update_are_let_through_wherever_they_stand(nest: Any) -> None:
    mine, other = tf.Variable(0.0), tf.Variable(0.0)
    graph = graph_of(nest(lambda x: mine.assign_add(tf.reduce_sum(x))))
    assert refused_ops(graph, writes=[mine]) == []
    assert [op.type for op in refused_ops(graph, writes=[other])] == ["AssignAddVariableOp"]


@pytest.mark.parametrize("nest", [lambda f: f, *NESTS[:4]], ids=["plain", "loop", "branch", "map", "function"])
def test_a_static_table_is_read_and_an_unknown_one_is_not(nest: Any) -> None:
    table = lookup.StaticHashTable(lookup.KeyValueTensorInitializer(["a"], tf.constant([1], tf.int64)), -1)
    graph = graph_of(nest(lambda x: table.lookup(keys_of(x))))
    assert refused_ops(graph, tables=[table]) == []
    assert {op.type for op in refused_ops(graph)} == {"LookupTableFindV2"}


def test_an_assertion_may_show_constants_and_shapes() -> None:
    right = graph_of(lambda x: tf.debugging.Assert(tf.reduce_all(x > 0), ["rows are positive", tf.shape(x)]))
    assert refused_ops(right) == []
    nested = graph_of(in_branch(lambda x: tf.debugging.Assert(tf.reduce_all(x > 0), ["fine", tf.constant(1.0)])))
    assert refused_ops(nested) == []
    shown = refused(in_branch(lambda x: tf.debugging.Assert(tf.reduce_all(x > 0), ["fine", x])))
    assert [(op.type, op.kind) for op in shown] == [("Assert", "shows")]


def test_unknown_ops_are_refused() -> None:
    found = refused(lambda x: tf.raw_ops.Timestamp())
    assert [(op.type, op.kind) for op in found] == [("Timestamp", "keeps")]
    assert "not on the list" in found[0].why


def test_draws_are_told_apart() -> None:
    graph = graph_of(lambda x: x + tf.random.uniform(tf.shape(x)))
    assert [op.kind for op in refused_ops(graph)] == ["draws"]
    assert unkeyed_randomness(graph) == [refused_ops(graph)[0].name]
    model = tf.keras.Sequential([L.Input([4]), L.Dense(1)])
    require_stateless(graph, model=model)
    with pytest.raises(BadInputError, match="RandomUniform"):
        require_stateless(graph, model=model, draws=False)
    assert refused(lambda x: x + tf.random.stateless_uniform(tf.shape(x), [1, 2])) == []


class FromConstants(L.Layer):
    """Looks numbers up in tables of constants."""

    def __init__(self) -> None:
        super().__init__()
        initializer = lookup.KeyValueTensorInitializer([0, 1], [5, 7])
        self.table = lookup.StaticHashTable(initializer, 0)
        self.more = [lookup.StaticHashTable(initializer, 1)]

    def call(self, x: Any) -> Any:
        whole = tf.cast(x, tf.int32)
        mapped = tf.map_fn(self.table.lookup, whole) + self.more[0].lookup(whole)
        return tf.ensure_shape(tf.cast(mapped, tf.float32), x.shape)


def unet() -> Any:
    x = L.Input([8, 8, 1])
    down = L.Conv2D(4, 3, padding="same", activation="relu")(x)
    low = L.Conv2D(4, 3, padding="same")(L.MaxPooling2D()(down))
    up = L.Conv2DTranspose(4, 2, strides=2)(low)
    return tf.keras.Model(x, L.Conv2D(1, 1)(L.Concatenate()([down, L.UpSampling2D()(low), up])))


def attention() -> Any:
    x = L.Input([6, 4])
    mixed = L.LayerNormalization()(x + L.MultiHeadAttention(2, 2, dropout=0.1)(x, x))
    return tf.keras.Model(x, L.Dense(1)(L.GlobalAveragePooling1D()(mixed)))


HONEST: dict[str, Callable[[], Any]] = {
    "table": lambda: tf.keras.Sequential([L.Input([4]), FromConstants(), L.Dense(1)]),
    "vocabulary": lambda: tf.keras.Sequential(
        [L.Input([4], dtype=tf.int64), L.IntegerLookup(vocabulary=[3, 4]), L.Embedding(5, 2), L.Flatten(), L.Dense(1)]
    ),
    "one-hot": lambda: tf.keras.Sequential(
        [L.Input([4], dtype=tf.int64), L.CategoryEncoding(5, output_mode="multi_hot"), L.Dense(1)]
    ),
    "bins": lambda: tf.keras.Sequential(
        [L.Input([4]), L.Discretization([0.0, 1.0]), L.Embedding(5, 2), L.Flatten(), L.Dense(1)]
    ),
    "dropout": lambda: tf.keras.Sequential([L.Input([4]), L.Dropout(0.5), L.GaussianNoise(0.1), L.Dense(1)]),
    "images drawn": lambda: tf.keras.Sequential(
        [L.Input([8, 8, 1]), L.RandomFlip(), L.RandomTranslation(0.1, 0.1), L.Flatten(), L.Dense(1)]
    ),
    "LSTM": lambda: tf.keras.Sequential([L.Input([5, 3]), L.Masking(), L.LSTM(4), L.Dense(1)]),
    "GRU": lambda: tf.keras.Sequential([L.Input([5, 3]), L.Bidirectional(L.GRU(4)), L.Dense(1)]),
    "dropout within a loop": lambda: tf.keras.Sequential([L.Input([5, 3]), L.LSTM(4, recurrent_dropout=0.2)]),
    "frozen statistics": lambda: tf.keras.Sequential([L.Input([4]), L.BatchNormalization(trainable=False), L.Dense(1)]),
    "attention": attention,
    "U-net": unet,
}


@pytest.mark.slow_but(
    "table", "vocabulary", "one-hot", "bins", "dropout", "images drawn", "frozen statistics", "attention", "U-net"
)
@pytest.mark.parametrize("name", HONEST)
def test_honest_models_keep_nothing(name: str) -> None:
    model = HONEST[name]()

    def run(x: Any) -> Any:
        with keyed_masks(model, tf.zeros([2], tf.int64)), tf.GradientTape() as tape:
            total = tf.reduce_sum(model(x, training=True))
        return tape.gradient(total, model.trainable_variables)

    spec = tf.TensorSpec(model.input_shape, model.inputs[0].dtype)
    graph = tf.function(run, input_signature=[spec]).get_concrete_function().graph
    assert refused_ops(graph, tables=static_tables(model)) == []


def plan(**changes: Any) -> PrivacyPlan:
    base: dict[str, Any] = {"units": 5, "expected_batch_size": 5, "steps": 2, "epsilon": 0.1, "delta": 1e-5}
    return PrivacyPlan.calibrated(**{**base, "clipping_norm": 1.0, **changes})


class Seen(L.Layer):
    """Keeps the rows of training in a table."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.table = lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.table.insert(keys_of(x), counting(x))
        return x


class SeenInInference(Seen):
    """Keeps the rows that are predicted."""

    def call(self, x: Any, training: bool = False) -> Any:
        return super().call(x, training=not training)


@pytest.mark.parametrize("layer", [Seen, SeenInInference])
def test_a_table_of_rows_is_refused_before_any_step(layer: Any) -> None:
    model = tf.keras.Sequential([L.Input([2]), layer(name="seen"), L.Dense(1)])
    x = np.array([[51.2, 38000], [33, 91000], [29, 17500], [44, 62000], [61, 12]], np.float32)
    with pytest.raises(BadInputError, match=r"layer 'seen'.*(LookupTableInsertV2|MutableHashTable)") as error:
        make_private(model, plan(), optimizer="sgd", loss="mse").fit(x, np.ones([5, 1], np.float32))
    assert "StaticHashTable" in error.value.fix
    assert model.layers[0].table.size() == 0


class Backwards(L.Layer):
    """Keeps what comes back to it in a variable that no layer tracks."""

    kept = tf.Variable(0.0)

    def call(self, x: Any) -> Any:
        @tf.custom_gradient
        def keep(v: Any) -> Any:
            def backward(upstream: Any) -> Any:
                with tf.control_dependencies([self.kept.assign(tf.reduce_sum(upstream))]):
                    return tf.identity(upstream)

            return tf.identity(v), backward

        return keep(x)


def test_a_backward_pass_that_assigns_is_refused() -> None:
    model = tf.keras.Sequential([L.Input([4]), L.Dense(3), Backwards(), L.Dense(1)])
    private = make_private(model, plan(), optimizer="sgd", loss="mse")
    with pytest.raises(BadInputError, match="assigns variables"):
        private.fit(np.ones([5, 4], np.float32), np.ones([5, 1], np.float32))


def test_a_loss_that_prints_is_refused() -> None:
    def loss(y: Any, p: Any) -> Any:
        tf.print(p)
        return tf.square(y - p)[:, 0]

    private = make_private(tf.keras.Sequential([L.Input([4]), L.Dense(1)]), plan(), optimizer="sgd", loss=loss)
    with pytest.raises(BadInputError, match=r"PrintV2.*shows"):
        private.fit(np.ones([5, 4], np.float32), np.ones([5, 1], np.float32))


@pytest.mark.slow_but("sgd")
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
def test_the_private_step_may_write_what_it_must(optimizer: str) -> None:
    model = tf.keras.Sequential([L.Input([4]), L.BatchNormalization(trainable=False), L.Dropout(0.5), L.Dense(1)])
    before = [hashlib.sha256(w.numpy().tobytes()).digest() for w in model.non_trainable_weights]
    private = make_private(model, plan(), optimizer=optimizer, loss="mse")
    private.fit(np.ones([5, 4], np.float32), np.ones([5, 1], np.float32))
    assert before == [hashlib.sha256(w.numpy().tobytes()).digest() for w in model.non_trainable_weights]


class Moving(tf.keras.callbacks.Callback):
    """Moves the model's own statistics, as a recalibration of batch normalisation would."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.layers[0].moving_mean.assign(tf.ones([4]))


def test_statistics_that_a_callback_moves_end_the_run() -> None:
    model = tf.keras.Sequential([L.Input([4]), L.BatchNormalization(trainable=False), L.Dense(1)])
    private = make_private(model, plan(), optimizer="sgd", loss="mse")
    with pytest.raises(PipelineError, match="moving_mean"):
        private.fit(np.ones([5, 4], np.float32), np.ones([5, 1], np.float32), callbacks=[Moving()])


def test_a_snapshot_sees_every_bit() -> None:
    model = tf.keras.Sequential([L.Input([4]), L.Dense(2)])
    model.layers[0].trainable = False
    weight = model.layers[0].bias
    weight.assign([float("nan"), 0.0])
    before = snapshot(model)
    require_unchanged(before)
    weight.assign([float("nan"), -0.0])
    with pytest.raises(PipelineError, match="bias"):
        require_unchanged(before)


def test_functions_without_a_call_are_walked() -> None:
    model = tf.keras.Sequential([L.Input([5, 3]), L.LSTM(4)])
    graph = (
        tf.function(lambda x: model(x), input_signature=[tf.TensorSpec([None, 5, 3], tf.float32)])
        .get_concrete_function()
        .graph
    )
    assert any(place.node.op.startswith("CudnnRNN") for place in Walk(graph).places())
