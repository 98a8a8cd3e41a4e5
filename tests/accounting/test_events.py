"""Events survive JSON, and nothing that is not an event gets through."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from dp_accounting import dp_event as d
from hypothesis import given
from hypothesis import strategies as st

from privacy_pipeline.accounting import events
from privacy_pipeline.accounting.integer_noise import DiscreteGaussianSumDpEvent, SkellamSumDpEvent
from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.accounting.total_variation import TotalVariationDpEvent
from privacy_pipeline.errors import BadInputError
from tests.ledger.conftest import make_plan

positive = st.floats(min_value=1e-3, max_value=1e6)
probability = st.floats(min_value=0, max_value=1)
count = st.integers(min_value=0, max_value=10**6)
one_or_more = st.integers(min_value=1, max_value=10**6)
leaves = st.one_of(
    st.just(d.NoOpDpEvent()),
    st.just(d.NonPrivateDpEvent()),
    st.just(d.UnsupportedDpEvent()),
    st.builds(d.GaussianDpEvent, positive),
    st.builds(d.LaplaceDpEvent, positive),
    st.builds(d.DiscreteLaplaceDpEvent, positive, count),
    st.builds(d.RandomizedResponseDpEvent, probability, count),
    st.builds(d.ZCDpEvent, positive, positive),
    st.builds(d.SingleEpochTreeAggregationDpEvent, positive, st.one_of(count, st.lists(count))),
    st.builds(d.MixtureOfGaussiansDpEvent, positive, st.lists(positive), st.lists(probability)),
    st.builds(d.TruncatedSubsampledGaussianDpEvent, count, probability, count, positive),
    st.builds(TotalVariationDpEvent, probability),
    st.builds(SkellamSumDpEvent, positive, one_or_more, one_or_more, count),
    st.builds(DiscreteGaussianSumDpEvent, positive, one_or_more, one_or_more, count),
)
trees = st.recursive(
    leaves,
    lambda part: st.one_of(
        st.builds(d.SelfComposedDpEvent, part, count),
        st.builds(d.ComposedDpEvent, st.lists(part, max_size=3)),
        st.builds(d.PoissonSampledDpEvent, probability, part),
        st.builds(d.SampledWithReplacementDpEvent, count, count, part),
        st.builds(d.SampledWithoutReplacementDpEvent, count, count, part),
        st.builds(d.RepeatAndSelectDpEvent, part, positive, st.one_of(positive, st.just(math.inf))),
    ),
    max_leaves=6,
)


@given(trees)
def test_round_trip_through_text(event: d.DpEvent) -> None:
    text = events.canonical(event)
    again = events.from_json(json.loads(text))
    assert again == event
    assert events.canonical(again) == text
    assert events.event_hash(again) == events.event_hash(event)


def test_every_event_class_of_the_library_is_known() -> None:
    classes = {c.__name__ for c in vars(d).values() if isinstance(c, type) and issubclass(c, d.DpEvent)}
    assert classes - {"DpEvent"} == set(events._SPEC) - set(events.OWN)
    assert set(events.OWN) == {"TotalVariationDpEvent", "SkellamSumDpEvent", "DiscreteGaussianSumDpEvent"}


def test_equal_events_have_equal_text_whatever_their_number_types() -> None:
    one = d.SelfComposedDpEvent(d.GaussianDpEvent(1), np.int64(3))
    other = d.SelfComposedDpEvent(d.GaussianDpEvent(np.float64(1.0)), 3)
    assert events.canonical(one) == events.canonical(other)
    assert events.canonical(other) == (
        '{"count":3,"event":{"noise_multiplier":1.0,"type":"GaussianDpEvent"},"type":"SelfComposedDpEvent"}'
    )


Impostor = type("GaussianDpEvent", (d.DpEvent,), {})  # another class under a known name


@pytest.mark.parametrize(
    "event",
    [
        d.GaussianDpEvent(0.0),
        d.GaussianDpEvent(-1.0),
        d.GaussianDpEvent(math.nan),
        d.GaussianDpEvent("1"),
        d.SelfComposedDpEvent(d.GaussianDpEvent(1.0), -3),
        d.SelfComposedDpEvent(d.GaussianDpEvent(1.0), 1.5),
        d.SelfComposedDpEvent(d.GaussianDpEvent(1.0), True),
        d.PoissonSampledDpEvent(1.1, d.GaussianDpEvent(1.0)),
        d.ComposedDpEvent([object()]),
        SkellamSumDpEvent(0.0, 1, 1, 1),
        SkellamSumDpEvent(1.0, 0, 1, 1),
        DiscreteGaussianSumDpEvent(1.0, 1, 0, 1),
        DiscreteGaussianSumDpEvent(1.0, 1, 1, 1.5),
        d.DpEvent(),
        Impostor(),
    ],
)
def test_malformed_events_are_refused(event: d.DpEvent) -> None:
    with pytest.raises(BadInputError):
        events.to_json(event)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "GaussianDpEvent",
        {},
        {"type": "GaussianDpEvent"},
        {"type": "GaussianDpEvent", "noise_multiplier": 1.0, "extra": 1},
        {"type": "GaussianDpEvent", "noise_multiplier": "1.0"},
        {"type": "GaussianDpEvent", "noise_multiplier": None},
        {"type": "GaussianDpEvent", "noise_multiplier": -1.0},
        {"type": "DpEvent"},
        {"type": "os"},
        {"type": ["GaussianDpEvent"]},
        {"type": "SelfComposedDpEvent", "event": 1, "count": 1},
        {"type": "ComposedDpEvent", "events": {}},
    ],
)
def test_malformed_json_is_refused(value: Any) -> None:
    with pytest.raises(BadInputError):
        events.from_json(value)


def test_builders() -> None:
    assert events.gaussian_passes(noise_multiplier=2.0, epochs=3) == d.SelfComposedDpEvent(d.GaussianDpEvent(2.0), 3)
    assert events.poisson_gaussian(sampling_probability=0.1, noise_multiplier=2.0, steps=5) == d.SelfComposedDpEvent(
        d.PoissonSampledDpEvent(0.1, d.GaussianDpEvent(2.0)), 5
    )
    for noise, epochs in ((0.0, 1), (-1.0, 1), (1.0, -1)):
        with pytest.raises(BadInputError):
            events.gaussian_passes(noise_multiplier=noise, epochs=epochs)


def test_a_fixed_partition_has_no_guarantee_under_add_or_remove_one() -> None:
    with pytest.raises(ValueError, match="zero-out"):
        dataclasses.replace(make_plan(), relation=Relation.ADD_OR_REMOVE_ONE)
