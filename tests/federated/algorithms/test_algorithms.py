import re
from dataclasses import replace

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from federated.algorithms import registry
from federated.algorithms.fedavg import FEDAVG
from privacy_pipeline.config.models.federated import FederatedAlgorithm


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    share: float


@pytest.fixture
def with_settings(monkeypatch):
    monkeypatch.setitem(registry.REGISTRY, "fedavg", replace(FEDAVG, settings=Settings, tff=None))


def test_a_config_may_name_each_algorithm_of_the_registry_and_no_other():
    needs = {"fedprox": {"proximal_strength": 0.5}}
    assert {"fedavg", "fedsgd", "fedprox", "mimelite"} <= set(registry.REGISTRY)
    for name, algorithm in registry.REGISTRY.items():
        if algorithm.settings is None:  # an extension's settings may be required
            section = FederatedAlgorithm(name=name, **needs.get(name, {}))
            assert registry.of(section).name == name
    *others, last = map(repr, registry.REGISTRY)
    with pytest.raises(ValidationError, match=re.escape(f"{', '.join(others)} or {last}")):
        FederatedAlgorithm(name="another")


@pytest.mark.parametrize(
    "section, message",
    [
        ({"name": "fedprox"}, "`proximal_strength` goes with `name: fedprox`"),
        ({"proximal_strength": 0.5}, "`proximal_strength` goes with `name: fedprox`"),
        ({"name": "fedsgd", "local_epochs": 2}, "drop `local_epochs`"),
        ({"name": "mimelite", "settings": {"share": 0.5}}, "has no `settings`"),
    ],
)
def test_an_algorithm_refuses_what_does_nothing_in_it(section, message):
    with pytest.raises(ValidationError, match=message):
        FederatedAlgorithm(**section)


@pytest.mark.parametrize(
    "section, message",
    [
        ({}, "`settings.share` of `name: fedavg`: Field required"),
        ({"settings": {"share": "much"}}, "`settings.share` of `name: fedavg`"),
        ({"settings": {"share": 0.5, "other": 1}}, "`settings.other`"),
        ({"settings": {"share": 0.5}, "engine": "tff"}, "`name: fedavg` runs on `engine: fast`"),
    ],
)
def test_settings_and_engine_are_those_of_the_algorithm(section, message, with_settings):
    with pytest.raises(ValidationError, match=message):
        FederatedAlgorithm(**section)


def test_only_settings_that_are_given_are_written(with_settings):
    section = FederatedAlgorithm(settings={"share": 0.5})
    assert section.model_dump()["settings"] == {"share": 0.5}
    assert FederatedAlgorithm.model_validate_json(section.model_dump_json()) == section
    plain = FederatedAlgorithm.model_construct()
    assert "settings" not in plain.model_dump()


def test_a_second_sum_doubles_the_bytes_that_travel():
    assert registry.REGISTRY["fedavg"].bytes_sent(10) == 40
    assert registry.REGISTRY["mimelite"].bytes_sent(10) == 80
