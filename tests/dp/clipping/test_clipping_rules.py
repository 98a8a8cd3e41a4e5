"""Every rule against brute force, over random shapes (Hypothesis), and on models that combine rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy_pipeline.dp.clipping import registry
from privacy_pipeline.dp.clipping.intercept import FallbackWarning
from privacy_pipeline.dp.training.choice import choose_clipper
from privacy_pipeline.errors import BadInputError
from tests.dp.keras_updates import Tied

L = tf.keras.layers
few = settings(
    max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
small = st.integers(1, 4)


def values(*shape: int, seed: int = 0) -> Any:
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


@few
@given(inputs=small, units=small, length=st.sampled_from([None, 1, 2, 9]), bias=st.booleans())
def test_dense(make_case: Any, check_case: Any, inputs: int, units: int, length: int | None, bias: bool) -> None:
    shape = (inputs,) if length is None else (length, inputs)
    check_case(make_case([L.Dense(units, activation="tanh", use_bias=bias), L.Dense(3, "softmax")], shape))


@few
@given(length=st.integers(1, 7), words=st.integers(2, 6), width=small)
def test_embedding(make_case: Any, check_case: Any, length: int, words: int, width: int) -> None:
    check_case(make_case([L.Embedding(words, width)], (length,), integers=words))


@pytest.mark.slow
@few
@given(
    size=st.integers(5, 9),
    kernel=st.integers(1, 3),
    geometry=st.sampled_from([(1, 1), (2, 1), (1, 2), (3, 1)]),
    padding=st.sampled_from(["same", "valid"]),
    channels=st.sampled_from([1, 3, 9]),
)
def test_conv2d(
    make_case: Any, check_case: Any, size: int, kernel: int, geometry: Any, padding: str, channels: int
) -> None:
    strides, dilation = geometry
    layer = L.Conv2D(3, (kernel, 2), strides=strides, dilation_rate=dilation, padding=padding, activation="tanh")
    check_case(make_case([layer], (size, size + 1, channels)))


def test_conv2d_of_many_channels_uses_inner_products(make_case: Any, check_case: Any) -> None:
    check_case(make_case([L.Conv2D(20, 3, strides=2)], (5, 5, 20), norm=5.0))


@pytest.mark.slow_but("1-1-causal", "1-2-valid")
@pytest.mark.parametrize("padding", ["causal", "same", "valid"])
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_conv1d(make_case: Any, check_case: Any, padding: str, strides: int, dilation: int) -> None:
    check_case(make_case([L.Conv1D(3, 3, strides=strides, dilation_rate=dilation, padding=padding)], (8, 2)))


@pytest.mark.parametrize("layer", [lambda: L.Conv2D(4, 2, groups=2, padding="same"), lambda: L.Conv1D(6, 3, groups=2)])
def test_grouped_convolution(make_case: Any, check_case: Any, layer: Any) -> None:
    made = layer()
    check_case(make_case([made], (6, 5, 4) if isinstance(made, L.Conv2D) else (7, 4)))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolution(make_case: Any, check_case: Any, padding: str, multiplier: int) -> None:
    check_case(make_case([L.DepthwiseConv2D((2, 3), depth_multiplier=multiplier, padding=padding)], (5, 6, 3)))


@pytest.mark.slow_but("True-True--1", "True-False-axis2")
@pytest.mark.parametrize("axis", [-1, 1, [1, 2]])
@pytest.mark.parametrize(("center", "scale"), [(True, True), (False, True), (True, False)])
def test_layer_normalization(make_case: Any, check_case: Any, axis: Any, center: bool, scale: bool) -> None:
    check_case(make_case([L.LayerNormalization(axis=axis, center=center, scale=scale)], (4, 5)))


@pytest.mark.slow_but("6")
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_normalization(make_case: Any, check_case: Any, groups: int) -> None:
    check_case(make_case([L.GroupNormalization(groups)], (4, 3, 6)))


@pytest.mark.slow_but("options1-GRU")
@pytest.mark.parametrize("kind", [L.LSTM, L.GRU])
@pytest.mark.parametrize("options", [{}, {"return_sequences": True, "go_backwards": True}, {"use_bias": False}])
def test_recurrent(make_case: Any, check_case: Any, kind: Any, options: dict[str, Any]) -> None:
    check_case(make_case([kind(3, **options)], (5, 2)))


def test_gru_with_reset_before(make_case: Any, check_case: Any) -> None:
    check_case(make_case([L.GRU(3, reset_after=False)], (5, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [L.LSTM, L.GRU])
def test_recurrent_under_a_mask(make_case: Any, check_case: Any, kind: Any) -> None:
    layers = [L.Embedding(4, 3, mask_zero=True), L.Bidirectional(kind(3, return_sequences=True)), kind(2)]
    check_case(make_case(layers, (6,), integers=4))


@pytest.mark.slow_but("abc,cd->abd", "abc,bcd->abd")
@pytest.mark.parametrize("equation", ["abc,cd->abd", "...x,xy->...y", "abc,bcd->abd", "abc,dc->abd"])
def test_einsum_dense(make_case: Any, check_case: Any, equation: str) -> None:
    output = (3, 4) if equation != "...x,xy->...y" else 4
    check_case(make_case([L.EinsumDense(equation, output, bias_axes=equation[-1])], (3, 2)))


@pytest.mark.slow
def test_attention_with_shared_and_many_inputs(case_type: Any, check_case: Any) -> None:
    first, second = L.Input((5, 4), name="first"), L.Input((3, 4), name="second")
    mixed = L.MultiHeadAttention(2, 3)(first, second)
    shared = L.Dense(4, activation="gelu")
    mixed = L.LayerNormalization()(L.Add()([shared(shared(mixed)), first]))
    joined = L.Concatenate()([L.Flatten()(mixed), L.Flatten()(shared(second))])
    model = tf.keras.Model({"first": first, "second": second}, L.Dense(2)(joined))
    check_case(case_type(model, {"first": values(4, 5, 4), "second": values(4, 3, 4, seed=1)}, values(4, 2)))


@pytest.mark.slow_but("<lambda>0")
@pytest.mark.parametrize(
    "layer", [lambda: L.Conv2D(2, 2, padding="same"), lambda: L.Conv1D(2, 2, padding="same"), lambda: L.Dense(2)]
)
def test_layer_that_is_used_twice(case_type: Any, check_case: Any, layer: Any) -> None:
    made = layer()
    inputs = L.Input((4, 4, 2) if isinstance(made, L.Conv2D) else (4, 2))
    model = tf.keras.Model(inputs, L.Dense(2)(L.Flatten()(made(tf.keras.activations.tanh(made(inputs))))))
    check_case(case_type(model, values(4, *inputs.shape[1:]), values(4, 2)))


def test_embedding_that_is_used_twice(case_type: Any, check_case: Any) -> None:
    first, second, table = L.Input((3,), dtype="int32"), L.Input((2,), dtype="int32"), L.Embedding(4, 3)
    joined = L.Concatenate(axis=1)([table(first), table(second)])
    model = tf.keras.Model((first, second), L.Dense(2)(L.Flatten()(joined)))
    random = np.random.default_rng(0)
    x = tuple(tf.constant(random.integers(0, 4, (4, n)), tf.int32) for n in (3, 2))
    check_case(case_type(model, x, values(4, 2)))


@pytest.mark.slow_but("<lambda>-shape0")
@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (lambda: [L.TimeDistributed(L.Dense(3)), L.PReLU()], (4, 2)),
        (lambda: [L.SeparableConv2D(3, 2), L.Conv2DTranspose(2, 2)], (4, 4, 2)),
        (lambda: [L.RNN(L.SimpleRNNCell(3)), L.Reshape((3, 1)), L.LocallyConnected1D(2, 2, implementation=1)], (4, 2)),
    ],
)
def test_layers_without_a_rule_fall_back_alone(make_case: Any, check_case: Any, layers: Any, shape: Any) -> None:
    check_case(make_case(layers(), shape), slow=2)


@pytest.mark.slow
def test_per_layer_clipping(make_case: Any, check_case: Any) -> None:
    check_case(
        make_case([L.Conv1D(3, 2, activation="tanh"), L.Dense(3), L.LayerNormalization()], (5, 2), per_layer=True)
    )


@pytest.mark.slow
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_functional_models(case_type: Any, check_case: Any, data: Any) -> None:
    """Random graphs over sequences [4, 3]: chains, sums and layers that come back."""
    inputs = L.Input((4, 3))
    pool = [L.Dense(3, "tanh"), L.Conv1D(3, 2, padding="same"), L.LayerNormalization(), L.GRU(3, return_sequences=True)]
    nodes = [inputs]
    for _ in range(data.draw(st.integers(2, 4))):
        left = data.draw(st.sampled_from(nodes))
        node = data.draw(st.sampled_from(pool))(left)
        nodes.append(L.Add()([node, data.draw(st.sampled_from(nodes))]))
    model = tf.keras.Model(inputs, L.Dense(2)(L.Flatten()(nodes[-1])))
    check_case(case_type(model, values(4, 4, 3), values(4, 2)))


def _choose(case: Any) -> Any:
    x, y = (tf.nest.map_structure(lambda v: tf.TensorSpec([None, *v.shape[1:]], v.dtype), n) for n in (case.x, case.y))
    return choose_clipper(model=case.model, losses=case.losses, groups=case.groups, x=x, y=y, memory_cap=4096)


@pytest.mark.slow
def test_weights_used_past_their_layer_are_noticed(case_type: Any) -> None:
    model = Tied()
    x = tf.constant([[0, 1], [1, 2], [4, 4]])
    model(x)
    case = case_type(model, x, values(3, 5))
    with pytest.warns(FallbackWarning, match="embeddings"):
        clipper = _choose(case)
    for value, right in zip(clipper.clipped_sum(case.x, case.y, training=False), case.expected()[1], strict=True):
        np.testing.assert_allclose(value.numpy(), right, atol=1e-5)


@pytest.mark.slow
def test_fallback_names_the_layer(make_case: Any) -> None:
    with pytest.warns(FallbackWarning, match="PReLU"):
        _choose(make_case([L.PReLU()], (3,)))


@pytest.mark.slow  # TensorFlow vectorises the loop of the layer, five times
def test_random_layer_without_rule_takes_the_whole_model(make_case: Any) -> None:
    with pytest.warns(FallbackWarning, match="random"):
        clipper = _choose(make_case([L.LSTM(2, dropout=0.5)], (3, 2)))
    assert type(clipper).__name__ == "Vectorised"


@pytest.mark.slow
def test_layers_that_cannot_be_vectorised_run_one_by_one(make_case: Any, check_case: Any) -> None:
    check_case(make_case([L.LSTM(2, dropout=0.5)], (3, 2)), slow=1)


def test_a_second_rule_is_refused() -> None:
    with pytest.raises(BadInputError, match="Dense has a clipping rule already"):
        registry.register_rule(L.Dense)(lambda call: None)


@pytest.mark.slow
def test_rules_do_not_cover_subclasses(make_case: Any) -> None:
    class Double(L.Dense):
        def call(self, inputs: Any) -> Any:
            return 2 * super().call(inputs)

    with pytest.warns(FallbackWarning, match="Double"):
        _choose(make_case([Double(2)], (3,)))
