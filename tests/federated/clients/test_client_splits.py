"""Synthetic clients: every row goes to exactly one client, by the rule that the record states."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federated.clients.splits import IidSplit, LabelSkewSplit, QuantitySkewSplit, split_rows
from privacy_pipeline.errors import BadInputError

RULES = st.sampled_from(
    [
        lambda clients, seed: IidSplit(clients=clients, seed=seed),
        lambda clients, seed: QuantitySkewSplit(clients=clients, alpha=0.3, seed=seed),
        lambda clients, seed: LabelSkewSplit(clients=clients, alpha=0.01, seed=seed),
        lambda clients, seed: LabelSkewSplit(clients=clients, alpha=1e-200, seed=seed),
    ]
)


@settings(max_examples=80, deadline=None)
@given(RULES, st.lists(st.integers(0, 3), min_size=1, max_size=80), st.data())
def test_each_row_is_dealt_once_and_the_seed_decides(make, labels, data):
    rule = make(data.draw(st.integers(1, len(labels))), data.draw(st.integers(0, 5)))
    store = split_rows(rule, features={"row": np.arange(len(labels))}, labels=labels)
    assert sorted(store.features["row"].tolist()) == list(range(len(labels)))
    assert [labels[row] for row in store.features["row"]] == store.labels.tolist()
    assert store.num_clients == rule.clients
    assert store.origin.synthetic
    assert store.origin.rule["rule"] == rule.rule
    np.testing.assert_array_equal(rule.deal(np.array(labels)), rule.deal(np.array(labels)))
    if not isinstance(rule, QuantitySkewSplit):
        assert store.counts.max() - store.counts.min() <= 1


def spread_of_labels(rule) -> float:
    """Mean total-variation distance of the clients' label mixes from the overall one."""
    labels = np.repeat([0, 1, 2, 3], 2_500)
    store = split_rows(rule, features={"x": labels}, labels=labels)
    mixes = np.array([np.bincount(store.examples_of(c)[1], minlength=4) / store.counts[c] for c in range(100)])
    return float(np.abs(mixes - 0.25).sum(axis=1).mean() / 2)


def test_label_skew_follows_alpha():
    # With the prior 1/4 each, 100 rows a client: multinomial noise alone is near 0.07, one label a client is 0.75.
    assert spread_of_labels(IidSplit(clients=100, seed=1)) < 0.1
    assert spread_of_labels(LabelSkewSplit(clients=100, alpha=1e6, seed=1)) < 0.1
    assert spread_of_labels(LabelSkewSplit(clients=100, alpha=0.01, seed=1)) > 0.6
    assert 0.1 < spread_of_labels(LabelSkewSplit(clients=100, alpha=4.0, seed=1)) < 0.6


def test_quantity_skew_follows_alpha():
    labels = np.zeros(10_000)

    def largest(alpha):
        rule = QuantitySkewSplit(clients=100, alpha=alpha, seed=1)
        return split_rows(rule, features={"x": labels}, labels=labels).counts.max()

    assert largest(1e6) < 150
    assert largest(0.05) > 1_000


def test_another_seed_deals_otherwise():
    labels = np.arange(100) % 2
    deals = {tuple(LabelSkewSplit(clients=5, alpha=0.5, seed=seed).deal(labels)) for seed in range(5)}
    assert len(deals) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IidSplit(clients=0, seed=1), "at least 1"),
        (lambda: IidSplit(clients=1, seed=-1), "seed is -1"),
        (lambda: LabelSkewSplit(clients=2, alpha=0, seed=1), "alpha is 0"),
        (lambda: QuantitySkewSplit(clients=2, alpha=float("nan"), seed=1), "alpha is nan"),
        (lambda: IidSplit(clients=4, seed=1).deal(np.zeros(3)), "3 rows cannot be dealt out to 4 clients"),
    ],
)
def test_impossible_rules(make, message):
    with pytest.raises(BadInputError, match=message):
        make()
