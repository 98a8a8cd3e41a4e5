"""What may cross from a build: built-in layers, graphs that only compute, plain arrays. What is forged is refused."""

from __future__ import annotations

import base64
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from privacy_pipeline.backends.isolated import frames
from privacy_pipeline.backends.isolated.crossing import configs
from privacy_pipeline.backends.isolated.crossing.graph_json import traced_json
from privacy_pipeline.backends.isolated.crossing.replay import Program, run
from privacy_pipeline.backends.isolated.crossing.trace import crossing_model
from privacy_pipeline.errors import BadInputError

WIDTH = 3


class Scaled(tf.keras.layers.Layer):
    """A layer of somebody's, with a weight, a loop, a branch and a phase."""

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 2))
        self.fixed = self.add_weight(name="fixed", shape=(2,), initializer="ones", trainable=False)

    def call(self, x: Any, training: bool = False) -> Any:
        made = tf.matmul(x, self.kernel) * self.fixed
        for _ in tf.range(2):
            made = tf.where(made > 0, made, 0.5 * made)
        if tf.reduce_all(tf.math.is_finite(made)):
            made = made + 1.0
        return 2.0 * made if training else made


def model_with(*layers: Any) -> Any:
    """Inputs, the layers, and a logit."""
    given = hidden = tf.keras.Input((WIDTH,), name="features")
    for layer in layers:
        hidden = layer(hidden)
    return tf.keras.Model(given, tf.keras.layers.Dense(1)(hidden))


def crossed(model: Any) -> Any:
    """The model as it comes out on the other side, by way of bytes."""
    config, weights = crossing_model(model)
    header, arrays = frames.unpack(frames.pack({"config": config}, weights))
    return configs.model_of(header["config"], arrays)


@pytest.mark.parametrize("name", ["Concatenate", "Add", "Average", "Maximum", "Minimum", "Multiply"])
def test_a_merging_layer_of_one_input_crosses(name: str) -> None:
    def merged(x: Any) -> Any:
        return getattr(tf.keras.layers, name)()([x])

    model = model_with(merged, tf.keras.layers.Dense(2, "tanh"))
    rows = np.random.default_rng(0).normal(size=(8, WIDTH)).astype(np.float32)
    np.testing.assert_allclose(crossed(model)(rows), model(rows), rtol=1e-6)


@pytest.mark.slow_but(
    "layers0-kinds0", "layers1-kinds1", "layers2-kinds2", "layers5-kinds5", "layers6-kinds6", "layers7-kinds7"
)
@pytest.mark.parametrize(
    ("layers", "kinds"),
    [
        ([tf.keras.layers.Dense(4, activation=tf.nn.relu), tf.keras.layers.Dropout(0.5)], ["Dense", "Dropout"]),
        ([tf.keras.layers.Dense(2, kernel_initializer=tf.constant_initializer(0.5))], ["Dense"]),
        ([tf.keras.layers.BatchNormalization(), tf.keras.layers.Dense(2, "tanh")], ["BatchNormalization", "Dense"]),
        (
            [tf.keras.layers.Reshape((WIDTH, 1)), tf.keras.layers.Bidirectional(tf.keras.layers.LSTM(2))],
            ["Reshape", "Bidirectional"],
        ),
        ([Scaled(), tf.keras.layers.Dense(2)], ["GraphLayer", "Dense"]),
        ([tf.keras.layers.Lambda(lambda x: tf.nn.tanh(x) + 1.0)], ["GraphLayer"]),
        ([lambda x: tf.concat([x, x * 2.0], axis=1)], ["GraphLayer", "GraphLayer"]),
        ([tf.keras.layers.Dense(2, activation=lambda x: x * tf.sigmoid(x))], ["GraphLayer"]),
        ([tf.keras.Sequential([tf.keras.layers.Dense(2), Scaled()])], ["GraphLayer"]),
    ],
)  # fmt: skip
def test_a_model_computes_and_learns_as_before(layers: list[Any], kinds: list[str]) -> None:
    model = model_with(*layers)
    other = crossed(model)
    assert [type(layer).__name__ for layer in other.layers[1:-1]] == kinds
    x = tf.constant(np.random.default_rng(1).normal(size=(5, WIDTH)), tf.float32)
    np.testing.assert_allclose(model(x), other(x), atol=1e-6)
    gradients = []
    for one in (model, other):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(one(x, training=not _draws(model)) ** 2)
        gradients.append(tape.gradient(loss, one.trainable_weights))
    for first, second in zip(*gradients, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-4, rtol=1e-4)
    assert [one.shape for one in model.weights] == [one.shape for one in other.weights]


def _draws(model: Any) -> bool:
    return any(isinstance(layer, tf.keras.layers.Dropout) for layer in model.layers)


def test_a_layer_under_the_name_of_a_built_in_one_is_not_taken_for_it() -> None:
    @tf.keras.saving.register_keras_serializable(package="keras.layers", name="Dense")
    class Dense(tf.keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + 41.0

    other = crossed(model_with(Dense(name="false")))
    assert type(other.get_layer("false")).__name__ == "GraphLayer"
    np.testing.assert_allclose(other.get_layer("false")(tf.ones((1, WIDTH))), 42.0 * np.ones((1, WIDTH)))


def test_what_a_layer_reads_while_it_is_traced_is_a_constant_of_its_graph(tmp_path: Path) -> None:
    (tmp_path / "public.txt").write_text("7")

    class Reading(tf.keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + float((tmp_path / "public.txt").read_text())

    other = crossed(model_with(Reading(name="reading")))
    (tmp_path / "public.txt").unlink()  # no Python of the layer runs on this side
    np.testing.assert_allclose(other.get_layer("reading")(tf.zeros((1, WIDTH))), np.full((1, WIDTH), 7.0))


def _python(x: Any) -> Any:
    return tf.ensure_shape(tf.py_function(lambda one: one, [x], tf.float32), x.shape)


def _read(x: Any) -> Any:
    return x + tf.strings.to_number(tf.io.read_file("data/rows.csv"))


def _printing(x: Any) -> Any:
    with tf.control_dependencies([tf.print(x)]):
        return tf.identity(x)


def _asserting(x: Any) -> Any:
    with tf.control_dependencies([tf.debugging.assert_less(x, 3.0)]):
        return tf.identity(x)


def _writing(x: Any) -> Any:
    with tf.control_dependencies([tf.io.write_file("out", tf.strings.as_string(x[0, 0]))]):
        return tf.identity(x)


def _in_a_branch(x: Any) -> Any:
    return tf.cond(tf.reduce_sum(x) > 0, lambda: _read(x), lambda: x)


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (_read, "ReadFile"),
        (_in_a_branch, "ReadFile"),
        (_python, "EagerPyFunc"),
        (_printing, "PrintV2"),
        (_asserting, "Assert"),
        (_writing, "WriteFile"),
        (lambda x: x + tf.cast(tf.shape(tf.io.matching_files("data/*"))[0], tf.float32), "MatchingFiles"),
        (lambda x: x + tf.cast(tf.io.decode_png(tf.constant(b""))[0, 0, 0], tf.float32), "DecodePng"),
    ],
)
def test_a_graph_that_does_more_than_to_compute_is_refused(function: Any, op: str) -> None:
    spec = [tf.TensorSpec([None, WIDTH], tf.float32)]
    value = traced_json(lambda x: [function(x)], spec, weights=(), what="it")
    with pytest.raises(BadInputError, match=f"layer 'x' has .*{op}"):
        Program.parsed(value, what="layer 'x'")


def test_a_gradient_in_python_does_not_cross() -> None:
    @tf.custom_gradient
    def straight(x: Any) -> Any:
        return tf.round(x), lambda upstream: upstream

    with pytest.raises(BadInputError, match="gradient of its own"):
        crossed(model_with(tf.keras.layers.Lambda(straight)))


def test_a_table_is_no_part_of_a_layer(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("a\nb\n")
    lines, numbers = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    source = tf.lookup.TextFileInitializer(str(tmp_path / "words"), tf.string, lines, tf.int64, numbers)
    words = tf.lookup.StaticHashTable(source, -1)
    with pytest.raises(BadInputError, match="reads a table"):
        crossed(model_with(tf.keras.layers.Lambda(lambda x: x + tf.cast(words.lookup(tf.constant("b")), tf.float32))))


def document(**changes: Any) -> dict[str, Any]:
    """A configuration whose Dense layer was changed."""
    config, _ = crossing_model(model_with(tf.keras.layers.Dense(2, name="changed")))
    (layer,) = [one for one in config["config"]["layers"] if one["config"]["name"] == "changed"]
    layer["config"] |= changes.pop("config", {})
    layer |= changes
    return config


FORGED = {
    "a lambda": {"class_name": "Lambda", "config": {"function": ["4wEAAAA=", None, None], "function_type": "lambda"}},
    "a layer that reads a file": {"class_name": "StringLookup", "config": {"vocabulary": "data/rows.csv"}},
    "a layer of a saved model": {"class_name": "TFSMLayer", "config": {"filepath": "/tmp/model"}},
    "an op by its name": {"class_name": "TFOpLambda", "config": {"function": "io.read_file"}},
    "another module": {"module": "os", "class_name": "Dense"},
    "a name of its own": {"registered_name": "mine>Dense"},
    "a function": {"config": {"activation": {"module": "os", "class_name": "function", "config": "system"}}},
    "a lambda inside": {"config": {"activation": {"class_name": "__lambda__", "config": {"value": "x"}}}},
    "another class inside": {"config": {"kernel_initializer": {"class_name": "Popen", "config": {}}}},
    "a module inside": {
        "config": {"kernel_initializer": {"module": "subprocess", "class_name": "Zeros", "config": {}}}
    },
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_a_forged_configuration_makes_nothing(forged: dict[str, Any]) -> None:
    _, weights = crossing_model(model_with(tf.keras.layers.Dense(2, name="changed")))
    with pytest.raises(BadInputError, match="is not a built-in layer"):
        configs.model_of(document(**forged), weights)


def test_a_layer_of_an_absurd_size_is_never_allocated() -> None:
    _, weights = crossing_model(model_with(tf.keras.layers.Dense(2, name="changed")))
    bases = tf.keras.layers.Dense.__mro__
    with pytest.raises(BadInputError, match="weights that crossed are not those"):
        configs.model_of(document(config={"units": 10**12}), weights)
    assert tf.keras.layers.Dense.__mro__ == bases  # Keras swaps them for a model that is built in a graph
    for config in ({}, [], None, "x", {"class_name": "Functional"}, {"class_name": "Functional", "config": {}}):
        with pytest.raises(BadInputError):
            configs.model_of(config, weights)


@pytest.mark.slow
def test_layers_are_of_this_keras_where_another_one_is_imported() -> None:
    """TensorFlow Federated imports `tf_keras`, whose classes Keras then finds under the same names."""
    script = (
        "import json, sys\nimport tensorflow as tf\nimport tf_keras\n"
        "tf_keras.layers.Dense\n"
        "from privacy_pipeline.backends.isolated.crossing import configs\n"
        "given = tf.keras.Input((3,), name='x')\n"
        "inner = tf.keras.Sequential([tf.keras.layers.Dense(2, 'relu', kernel_regularizer='l2')])\n"
        "model = tf.keras.Model(given, tf.keras.layers.Dropout(0.2)(inner(given)))\n"
        "text = tf.keras.utils.serialize_keras_object(model)\n"
        "config = json.loads(json.dumps({'class_name': 'Functional', 'config': text['config']}))\n"
        "made = configs.model_of(config, model.get_weights())\n"
        "kinds = {type(layer).__module__.split('.')[0] for layer in made._flatten_layers()}\n"
        "print(sorted(kinds), made(tf.ones((1, 3))).shape)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert told.stdout.strip().endswith("['keras'] (1, 2)"), told.stderr[-2000:]


class Exploding:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("it was unpickled",))


def test_nothing_is_unpickled_or_larger_than_it_is() -> None:
    header = b'{"arrays": [{"dtype": "float32", "shape": [1000000000, 1000000000]}]}'
    wide = b'{"arrays": [{"dtype": "float32", "shape": [0, 1000000000000000000000000000000]}]}'
    objects = b'{"arrays": [{"dtype": "object", "shape": [1]}]}'
    for content in (
        pickle.dumps(Exploding()),
        b"",
        b"\xff" * 100,
        len(header).to_bytes(8, "big") + header,
        len(wide).to_bytes(8, "big") + wide,
        len(objects).to_bytes(8, "big") + objects + pickle.dumps(Exploding()),
        frames.pack({}, [np.zeros(3, np.float32)])[:-1],
        frames.pack({}, [np.zeros(3, np.float32)]) + b"x",
        (9).to_bytes(8, "big") + b"[" * 9,
    ):
        with pytest.raises(BadInputError, match="the answer of the build is not one"):
            frames.unpack(content)
    with pytest.raises(BadInputError, match="type object"):
        frames.pack({}, [np.array([Exploding()])])
    kept = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 4), np.int64)]
    assert [one.tolist() for one in frames.unpack(frames.pack({"a": 1}, kept))[1]] == [one.tolist() for one in kept]


def forged_graph(change: Any) -> dict[str, Any]:
    spec = [tf.TensorSpec([None, WIDTH], tf.float32)]
    value = traced_json(lambda x: [x + tf.constant([1.0] * WIDTH)], spec, weights=(), what="it")
    graph = tf.compat.v1.GraphDef.FromString(base64.b64decode(value["graph"]))
    change(graph)
    return {**value, "graph": base64.b64encode(graph.SerializeToString()).decode()}


def _huge(graph: Any) -> None:
    (one,) = [node for node in graph.node if node.op == "Const"]
    one.attr["value"].tensor.tensor_shape.dim[0].size = 1 << 40


def _hidden_in_a_function(graph: Any) -> None:
    graph.library.function.add().node_def.add(name="f", op="ReadFile")


def _calling_itself(graph: Any) -> None:
    function = graph.library.function.add()
    function.signature.name = "again"
    call = function.node_def.add(name="call", op="PartitionedCall")
    call.attr["f"].func.name = "again"
    (added,) = [node for node in graph.node if node.op == "AddV2"]
    added.op = "PartitionedCall"
    added.attr["f"].func.name = "again"
    del added.input[:]


def test_a_forged_graph_is_refused() -> None:
    for change, says in ((_huge, "too large"), (_hidden_in_a_function, "ReadFile")):
        with pytest.raises(BadInputError, match=says):
            Program.parsed(forged_graph(change), what="layer 'x'")
    for value in (None, {}, {"graph": "no base64"}, forged_graph(lambda graph: None) | {"weights": []}):
        with pytest.raises(BadInputError, match="is not a graph"):
            Program.parsed(value, what="layer 'x'")
    with pytest.raises(BadInputError, match="cannot be run"):
        run(Program.parsed(forged_graph(_calling_itself), what="layer 'x'"), [tf.ones((2, WIDTH))])


def test_every_op_on_the_list_is_one_that_replay_can_call() -> None:
    from privacy_pipeline import computing_ops
    from privacy_pipeline.backends.isolated.crossing.one_op import _function

    for name in sorted(computing_ops.COMPUTING - {"Placeholder"}):
        assert callable(_function(name)[0]), name
    doing = r"File|Py|Print|Assert|Socket|Rpc|Dataset|Iterator|Queue|Save|Restore|Summary|Decode(?!WithOffsets)|Host"
    assert [name for name in sorted(computing_ops.ALLOWED) if re.search(doing, name)] == ["UnicodeDecode"]


def test_a_layer_survives_its_own_configuration() -> None:
    other = crossed(model_with(Scaled(name="scaled")))
    again = tf.keras.models.clone_model(other)
    again.set_weights(other.get_weights())
    x = tf.ones((2, WIDTH))
    np.testing.assert_array_equal(again(x), other(x))
    assert json.dumps(other.get_layer("scaled").get_config()["calls"])
