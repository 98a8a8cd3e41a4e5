"""The mends of TF-Encrypted's ABY3, each shown to be needed on stock TF-Encrypted and to work on ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

RUNS = 200
# |z| that one of half a million proportions exceeds by chance with probability 1e-6.
BOUND = 7.0


@pytest.mark.slow
def test_one_server_recovers_the_difference_of_two_queries_on_stock(program: Callable[..., Any]) -> None:
    found = program("attack.py", "stock")
    np.testing.assert_allclose(found["reconstructed"], found["true"], atol=1e-3)


@pytest.mark.slow
def test_it_would_on_ours_if_a_compiled_call_reused_its_keys(program: Callable[..., Any]) -> None:
    found = program("attack.py", "ours-reused")
    np.testing.assert_allclose(found["reconstructed"], found["true"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["ours", pytest.param("ours-keras", marks=pytest.mark.slow)])
def test_the_same_server_recovers_noise_on_ours(program: Callable[..., Any], path: str) -> None:
    found = program("attack.py", path)
    np.testing.assert_allclose(found["answers"], found["expected"], atol=1e-3)
    # A uniform value of 64 bits with 32 behind the point is below 1,000 with probability 5e-7.
    assert np.abs(found["reconstructed"]).min() > 1000


@pytest.mark.slow
@pytest.mark.parametrize("network", [pytest.param("linear", marks=pytest.mark.slow), "relu"])
def test_no_party_can_tell_two_queries_from_all_that_it_sees(program: Callable[..., Any], network: str) -> None:
    views = program("views.py", "ours", network, str(RUNS))
    assert set(views) == {"server0", "server1", "server2", "prediction-client"}
    for party, view in views.items():
        assert view["messages"] >= 6 and view["tests"] > 5000, party
        assert view["largest"] < BOUND, party


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "how", "messages", "pads"),
    [
        ("mlp", "", (11, 17, 3), 23),
        ("mlp", "deployed", (9, 15, 1), 21),
        pytest.param("residual", "", (17, 28, 3), 40, marks=pytest.mark.slow),
        pytest.param("layered", "", (30, 47, 3), 69, marks=pytest.mark.slow),
    ],
)
def test_every_message_to_a_server_is_under_a_pad_of_its_own(
    program: Callable[..., Any], network: str, how: str, messages: tuple[int, int, int], pads: int
) -> None:
    found = program("pads.py", network, how)
    assert found["badly drawn"] == []
    for (server, read), fewest in zip(found["servers"].items(), messages, strict=True):
        assert read["messages"] >= fewest, server
        assert read["without"] == [] and read["depending"] == [], server
    # All that server 2 gets are its keys and the client's shares: it deals, and is told nothing.
    last = found["servers"]["server2"]
    assert last["messages"] == messages[2] and len(last["pads"]) == (0 if how else 1)
    assert found["pads"] >= pads and found["not needed"] == []


@pytest.mark.slow
def test_a_pad_that_is_used_again_is_noticed(program: Callable[..., Any]) -> None:
    found = program("pads.py", "mlp", "reused")
    assert all(found["servers"][server]["without"] for server in ("server0", "server1"))


@pytest.mark.slow
def test_so_are_narrow_pads_and_messages_by_way_of_nobody(program: Callable[..., Any]) -> None:
    assert program("pads.py", "mlp", "narrow")["badly drawn"]
    assert program("pads.py", "mlp", "told")["refused"].endswith("is at no party")


@pytest.mark.slow
def test_the_positive_part_is_exact_over_its_whole_range(program: Callable[..., Any]) -> None:
    found = program("signs.py")
    for kind, off in (("opened", 0), ("truncated", 1), ("truncated by more", 1), ("by most", 1)):
        assert found[kind]["elements"] > 80_000 and found[kind]["wrong"] == 0 and found[kind]["off"] <= off, kind
    assert found["beyond the range"]["wrong"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("network", ["linear", "relu"])
def test_the_views_of_stock_tell_them_at_once(program: Callable[..., Any], network: str) -> None:
    views = program("views.py", "stock", network, str(RUNS))
    telling = {party for party, view in views.items() if view["largest"] > BOUND}
    assert "server1" in telling
    if network == "relu":
        assert {"server0", "server1"} <= telling  # our ReLU under stock's masks: it tells server 2 nothing


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_small_masks_are_one_constant_on_stock(program: Callable[..., Any], dtype: str) -> None:
    assert program("masks.py")["stock"][dtype]["distinct"] == 1


@pytest.mark.parametrize(("dtype", "distinct"), [("int8", 256), ("int16", 40_000), ("int32", 65_500)])
def test_small_masks_are_uniform_over_their_whole_range_on_ours(
    program: Callable[..., Any], dtype: str, distinct: int
) -> None:
    found = program("masks.py")["mended"][dtype]
    assert found["distinct"] >= distinct and found["distinct_unseeded"] >= distinct
    assert max(found["low"], found["high"]) < 2 ** (np.dtype(dtype).itemsize * 8 - 10)
    assert found["chi_square_of_bytes"] < 400  # 255 degrees of freedom: 1e-8


@pytest.mark.parametrize(
    ("when", "why"),
    [
        ("from the start", "no secure random-number module"),
        ("lost later", "no secure random-number module"),
        ("constant keys", "the same key twice"),
    ],
)
def test_without_secure_randomness_nothing_is_shared(program: Callable[..., Any], when: str, why: str) -> None:
    refused = program("masks.py")["refused"]
    assert why in refused[when] and refused[when].endswith("shared 0")
    assert refused["nothing wrong"] == "not refused"
