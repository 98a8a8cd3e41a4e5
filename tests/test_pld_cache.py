"""The cache of the tests gives what the library computes, and steps aside where a test patches the library."""

from __future__ import annotations

import dp_accounting as d
import pytest
from dp_accounting.pld import PLDAccountant, privacy_loss_distribution

from tests.pld_cache import RememberingAccountant

POISSON = d.SelfComposedDpEvent(d.PoissonSampledDpEvent(0.1, d.GaussianDpEvent(1.5)), 20)
EVENTS = [POISSON, d.ComposedDpEvent([d.GaussianDpEvent(3.0), POISSON]), d.NonPrivateDpEvent(), d.NoOpDpEvent()]
RELATIONS = [d.NeighboringRelation.ADD_OR_REMOVE_ONE, d.NeighboringRelation.REPLACE_SPECIAL]


@pytest.mark.parametrize("relation", RELATIONS, ids=["add or remove", "zero out"])
@pytest.mark.parametrize("event", EVENTS, ids=["poisson", "composed", "no privacy", "nothing"])
def test_epsilons_are_those_of_the_library(event: d.DpEvent, relation: d.NeighboringRelation) -> None:
    for interval in (1e-3, 1e-2):
        exact = PLDAccountant(relation, interval).compose(event)
        for _ in range(2):
            found = RememberingAccountant(relation, interval).compose(event)
            assert found.get_epsilon(1e-5) == exact.get_epsilon(1e-5)
            assert found.ledger == exact.ledger


def test_an_equal_event_is_computed_once_and_a_second_one_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RememberingAccountant, "_composed", {})
    first, second = (RememberingAccountant().compose(d.GaussianDpEvent(4.0)) for _ in range(2))
    assert first._pld is second._pld and len(RememberingAccountant._composed) == 1
    again = second.compose(d.GaussianDpEvent(4.0)).get_epsilon(1e-5)
    exact = PLDAccountant().compose(d.GaussianDpEvent(4.0)).compose(d.GaussianDpEvent(4.0))
    assert again == exact.get_epsilon(1e-5) > first.get_epsilon(1e-5)
    assert len(RememberingAccountant._composed) == 1


def test_a_test_that_patches_the_library_gets_what_it_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    event = d.GaussianDpEvent(4.0)
    before = RememberingAccountant().compose(event).get_epsilon(1e-5)
    weak = privacy_loss_distribution.from_gaussian_mechanism(1.0)
    monkeypatch.setattr(privacy_loss_distribution, "from_gaussian_mechanism", lambda **given: weak)
    assert RememberingAccountant().compose(event).get_epsilon(1e-5) > 2 * before


def test_the_product_uses_it() -> None:
    from privacy_pipeline.accounting.loss_distribution import loss_distribution
    from privacy_pipeline.accounting.plan import Relation

    found = [loss_distribution(d.GaussianDpEvent(5.0), Relation.ZERO_OUT).accountant for _ in range(2)]
    assert all(type(accountant) is RememberingAccountant for accountant in found)
    assert found[0]._pld is found[1]._pld
