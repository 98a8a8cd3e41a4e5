"""The client store: rows go to their client, a million clients open at once, damage is noticed."""

import fcntl
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated.clients.origin import ClientOrigin
from federated.clients.store import ClientStore
from privacy_pipeline.errors import BadInputError


def small_store(**changes):
    keys = ["b", "a", "b", "c", "a", "b"]
    features = {"x": np.arange(12.0).reshape(6, 2), "n": np.arange(6)}
    return ClientStore.from_arrays(**{"keys_of_rows": keys, "features": features, "labels": np.arange(6), **changes})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60))
def test_each_row_is_with_its_client_in_its_order(keys):
    store = ClientStore.from_arrays(keys_of_rows=keys, features={"row": np.arange(len(keys))}, labels=np.array(keys))
    assert store.keys.tolist() == sorted(set(keys))
    assert store.num_examples == len(keys) == store.counts.sum()
    for client, key in enumerate(store.keys):
        features, labels = store.examples_of(client)
        assert features["row"].tolist() == [row for row, owner in enumerate(keys) if owner == key]
        assert set(labels.tolist()) == {key}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.data())
def test_rows_of_a_cohort_are_those_of_its_clients(keys, data):
    store = ClientStore.from_arrays(keys_of_rows=keys, features={"x": np.arange(len(keys))}, labels=np.array(keys))
    cohort = data.draw(st.lists(st.integers(0, store.num_clients - 1), max_size=12))
    rows, counts = store.rows_of(cohort)
    expected = [row for c in cohort for row in range(store.offsets[c], store.offsets[c + 1])]
    assert rows.tolist() == expected
    assert counts.tolist() == [store.counts[c] for c in cohort]


def test_a_store_comes_back_from_disk_as_it_was(tmp_path):
    origin = ClientOrigin(client_is="dealt", synthetic=True, rule={"rule": "iid", "seed": 3})
    store = small_store(origin=origin)
    opened = store.write(tmp_path / "store")
    assert isinstance(opened.features["x"], np.memmap)
    assert opened.origin == origin
    for name in store.features:
        np.testing.assert_array_equal(opened.features[name], store.features[name])
    np.testing.assert_array_equal(opened.labels, store.labels)
    assert opened.keys.tolist() == ["a", "b", "c"]
    assert opened.features["x"].dtype == np.float32
    ClientStore.verify(tmp_path / "store")


def test_selecting_clients_keeps_their_rows_and_refuses_doubles():
    store = small_store().select([2, 0])
    assert store.keys.tolist() == ["c", "a"]
    assert store.features["n"].tolist() == [3, 1, 4]
    with pytest.raises(BadInputError, match="twice"):
        small_store().select([1, 1])
    with pytest.raises(BadInputError, match="clients 0 to 2"):
        small_store().select([3])
    with pytest.raises(BadInputError, match="no client -1"):
        small_store().examples_of(-1)


# A run of its own would need a process; the bound is on what opening adds to this one.
def test_a_million_clients_open_at_once(tmp_path):
    clients = 1_000_000
    store = ClientStore.from_arrays(
        keys_of_rows=np.arange(clients), features={"x": np.ones([clients, 4], np.float32)}, labels=np.zeros(clients)
    )
    store.write(tmp_path / "store")
    del store
    before = _resident_kib()
    start = time.process_time()
    opened = ClientStore.open(tmp_path / "store")
    features, _ = opened.examples_of(999_999)
    seconds = time.process_time() - start
    assert opened.num_clients == clients
    assert features["x"].shape == (1, 4)
    assert seconds < 0.25, "opening must not make an object for each client"
    assert _resident_kib() - before < 64 * 1024


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys_of_rows": ["a", None, "b", "c", "a", ""]}, "missing in 2 of 6 rows, first in row 2"),
        ({"keys_of_rows": [1.0, 2.0, np.nan, 1, 1, 1]}, "missing in 1 of 6 rows, first in row 3"),
        ({"keys_of_rows": [1.5, 2.0, 1, 1, 1, 1]}, "fraction"),
        ({"keys_of_rows": ["a"]}, "1 keys"),
        ({"labels": np.arange(5)}, "'labels' has the shape"),
        ({"features": {"x": np.array(["t"] * 6)}}, "'x' is not an array of numbers"),
        ({"features": {}}, "at least one feature"),
        ({"keys_of_rows": [], "features": {"x": []}, "labels": []}, "no rows"),
    ],
)
def test_bad_rows_are_one_clear_error(changes, message):
    with pytest.raises(BadInputError, match=message):
        small_store(**changes)


def test_a_client_without_examples_is_named():
    with pytest.raises(BadInputError, match=r"'b' has no examples"):
        offsets = np.array([0, 1, 1, 3])
        ClientStore(features={"x": np.zeros(3)}, labels=np.zeros(3), offsets=offsets, keys=np.array(["a", "b", "c"]))


def test_damage_is_noticed(tmp_path):
    small_store().write(tmp_path / "store")
    with pytest.raises(BadInputError, match="exists already"):
        small_store().write(tmp_path / "store")
    label_file = tmp_path / "store" / "labels.npy"
    content = bytearray(label_file.read_bytes())
    content[-1] ^= 1
    label_file.write_bytes(content)
    with pytest.raises(BadInputError, match=r"labels\.npy was changed"):
        ClientStore.verify(tmp_path / "store")
    label_file.write_bytes(content[:-8])
    with pytest.raises(BadInputError, match=r"labels\.npy has"):
        ClientStore.open(tmp_path / "store")
    meta_file = tmp_path / "store" / "meta.json"
    meta = json.loads(meta_file.read_text())
    meta["origin"]["client_is"] = "somebody else"
    meta_file.write_text(json.dumps(meta))
    with pytest.raises(BadInputError, match="its own checksum"):
        ClientStore.open(tmp_path / "store")
    with pytest.raises(BadInputError, match="holds no client store"):
        ClientStore.open(tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(BadInputError, match="is not a file name"):
        small_store(features={"a/b": np.zeros(6)}).write(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


def test_a_write_removes_what_killed_ones_left_and_nothing_of_living_ones(tmp_path):
    left, living, other = (tmp_path / f".{name}.part" for name in ("store.abcdefgh", "store.living_1", "more.abcdefgh"))
    for folder in (left, living, other):
        folder.mkdir()
        (folder / "x.npy").touch()
    held = os.open(living, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    small_store().write(tmp_path / "store")
    assert set(tmp_path.iterdir()) == {living, other, tmp_path / "store"}
    os.close(held)
