"""Encoding and secret shares in NumPy: exact, uniform, and refused where two servers disagree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy_pipeline.encrypted.model import shares
from privacy_pipeline.encrypted.model.layers import Input
from privacy_pipeline.errors import BadInputError, PipelineError

INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)
# |z| that a standard normal exceeds with probability 1e-9.
BOUND = 6.1


@given(INTEGERS)
def test_any_two_servers_and_the_third_give_back_what_was_shared(values: list[int]) -> None:
    ring = np.array(values, np.int64).reshape(1, -1)
    three = shares.split(ring)
    assert np.array_equal(shares.join([shares.held(three, server) for server in range(3)]), ring)


@given(st.lists(st.floats(-(2.0**29), 2.0**29), min_size=1, max_size=20))
def test_encoding_is_the_nearest_fixed_point_number(values: list[float]) -> None:
    given_values = np.array(values)
    error = np.abs(shares.decode(shares.encode(given_values, scale=2.0**16), scale=2.0**16) - given_values)
    assert error.max() <= 2.0**-17


def test_encoding_rounds_at_the_scale() -> None:
    assert shares.encode(np.array([1.0, -0.5, 2.0**-17 * 1.01, 0.0]), scale=2.0**16).tolist() == [65536, -32768, 1, 0]
    assert shares.encode(np.array([1e-8, -3e-8]), scale=2.0**40).tolist() == [10995, -32985]
    assert shares.encode(np.array([1e12, 7.0]), scale=0.25).tolist() == [250_000_000_000, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**47])
def test_what_the_ring_cannot_hold_is_refused(bad: float) -> None:
    with pytest.raises(BadInputError, match="not a number, or is beyond"):
        shares.encode(np.array([0.0, bad]), scale=2.0**16)


def test_each_share_is_uniform_and_fresh() -> None:
    """Every bit of every share of the same constant, and of what any one server can sum."""
    count = 20_000
    three = shares.split(np.full(count, 12345, np.int64))
    looks = [*three, three[0] + three[1], three[1] + three[2], three[0] - three[2]]
    for look in looks:
        ones = np.unpackbits(look.view(np.uint8).reshape(count, 8), axis=1).sum(axis=0)
        assert np.abs((ones - count / 2) / np.sqrt(count / 4)).max() < BOUND
        assert len(np.unique(look)) == count
    again = shares.split(np.full(count, 12345, np.int64))
    assert not any((one == other).any() for one, other in zip(three, again, strict=True))


def test_the_shares_of_the_servers_are_those_that_tf_encrypted_expects() -> None:
    three = shares.split(np.arange(4))
    for server, (one, other) in enumerate([(0, 1), (1, 2), (2, 0)]):
        first, second = shares.held(three, server)
        assert first is three[one] and second is three[other]


@pytest.mark.parametrize(("server", "which"), [(s, h) for s in range(3) for h in range(2)])
def test_servers_that_disagree_give_no_answer(server: int, which: int) -> None:
    three = shares.split(np.arange(6).reshape(2, 3))
    pairs = [[share.copy() for share in shares.held(three, number)] for number in range(3)]
    pairs[server][which][1, 2] ^= 1
    with pytest.raises(PipelineError, match="disagree about a share"):
        shares.join([(first, second) for first, second in pairs])


def test_shares_of_other_shapes_give_no_answer() -> None:
    pairs = [shares.held(shares.split(np.arange(6)), server) for server in range(3)]
    short = shares.held(shares.split(np.arange(5)), 2)
    with pytest.raises(PipelineError, match="different shapes"):
        shares.join([*pairs[:2], short])
    with pytest.raises(PipelineError, match="different shapes"):
        shares.join(pairs[:2])


@given(INTEGERS)
def test_bytes_are_little_endian_and_come_back(values: list[int]) -> None:
    ring = np.array(values, np.int64)
    content = shares.to_bytes(ring)
    assert content == b"".join(value.to_bytes(8, "little", signed=True) for value in values)
    assert np.array_equal(shares.from_bytes(content, (len(values),)), ring)
    with pytest.raises(PipelineError, match="not those of"):
        shares.from_bytes(content[:-1], (len(values),))


def test_names_in_a_store_cannot_leave_it() -> None:
    assert str(shares.weight_stem("dense:relu", "kernel")) == "weights/dense:relu~kernel"
    assert str(shares.weight_stem("../a/b", "kernel")) == "weights/..%2Fa%2Fb~kernel"
    assert str(shares.half(shares.input_stem("7-a_B", "x"), 1)) == "batches/7-a_B.x.1"
    assert str(shares.half(shares.output_stem("7-a_B"), 0)) == "batches/7-a_B.out.0"
    assert shares.input_stem("1", "out") != shares.output_stem("1")
    for bad in ("", "..", "a/b", "a.b", "é", "a" * 65):
        with pytest.raises(PipelineError, match="batch's id"):
            shares.input_stem(bad, "x")


def test_an_integer_input_is_shared_as_a_one_hot_vector() -> None:
    assert shares.encoded_shape(Input(name="x", shape=(2,), vocabulary=5)) == (2, 5)
    assert shares.encoded_shape(Input(name="x", shape=(2, 3))) == (2, 3)
