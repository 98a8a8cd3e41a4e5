"""TFF's client data in and out, with TFF's own synthetic datasets."""

import collections

import numpy as np
import pytest

from federated.clients.store import ClientStore
from federated.clients.tff_data import from_client_data, to_client_data
from privacy_pipeline.errors import BadInputError


@pytest.fixture(scope="module")
def datasets():
    import tensorflow_federated as tff

    return tff.simulation.datasets


def test_synthetic_emnist_becomes_a_store_and_comes_back(datasets, tmp_path):
    emnist = datasets.emnist.get_synthetic()
    store = from_client_data(emnist, label="label").write(tmp_path / "emnist")
    assert store.keys.tolist() == sorted(emnist.client_ids)
    client = emnist.client_ids[0]
    expected = list(emnist.create_tf_dataset_for_client(client).as_numpy_iterator())
    back = to_client_data(store)
    assert back.client_ids == sorted(emnist.client_ids)
    found = list(back.create_tf_dataset_for_client(client).as_numpy_iterator())
    assert len(found) == len(expected) > 0
    for left, right in zip(found, expected, strict=True):
        assert left.keys() == right.keys()
        np.testing.assert_array_equal(left["pixels"], right["pixels"])
        assert left["label"] == right["label"]


def test_synthetic_stackoverflow_has_texts_which_are_no_features(datasets):
    stackoverflow = datasets.stackoverflow.get_synthetic()
    with pytest.raises(BadInputError, match=r"\'tokens\' is not an array of numbers"):
        from_client_data(stackoverflow, label="score", features=["tokens"])
    counted = stackoverflow.preprocess(lambda d: d.map(_lengths))
    store = from_client_data(counted, label="score")
    assert store.num_clients == len(stackoverflow.client_ids)
    assert set(store.features) == {"tokens", "title"}
    assert store.features["tokens"].min() > 0


def _lengths(example):
    import tensorflow as tf

    texts = {name: tf.strings.length(example[name]) for name in ("tokens", "title")}
    return {**texts, "score": example["score"]}


def test_bad_client_data(datasets):
    def data(**clients):
        return datasets.TestClientData({k: collections.OrderedDict(x=v, y=v) for k, v in clients.items()})

    with pytest.raises(BadInputError, match="no 'z'; it has: x, y"):
        from_client_data(data(a=[1, 2]), label="z")
    with pytest.raises(BadInputError, match="name of a feature"):
        store = from_client_data(data(a=[1, 2], b=[3]), label="y")
        to_client_data(store, label="x")
    with pytest.raises(BadInputError, match="no clients"):
        from_client_data(data(a=[1]), label="y", clients=[])


def test_number_keys_become_texts(datasets):
    store = ClientStore.from_arrays(keys_of_rows=[9, 8, 9], features={"x": [1, 2, 3]}, labels=[0, 1, 0])
    back = to_client_data(store)
    assert back.client_ids == ["8", "9"]
    with pytest.raises(BadInputError, match="no client '7'"):
        back.create_tf_dataset_for_client("7")
    found = [row["x"] for row in back.create_tf_dataset_for_client("9").as_numpy_iterator()]
    assert found == [1, 3]
