"""A backend is listed once; a private one states its relation there, and nothing else has to name it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.backends import listed, registry
from privacy_pipeline.config.loader import load_config
from privacy_pipeline.config.models.pipeline import PipelineConfig
from tests.docs.pages import ROOT


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> PipelineConfig:
    """The baseline's config; `plain` is listed as a backend whose runs claim a guarantee."""
    private = replace(listed.BACKENDS["plain"], relation=Relation.ADD_OR_REMOVE_ONE)
    monkeypatch.setitem(listed.BACKENDS, "plain", private)
    return load_config(ROOT / "configs/adult_plain.yaml", overrides=[])


def test_a_line_with_a_relation_claims_a_guarantee(config: PipelineConfig) -> None:
    assert config.training.claims_guarantee
    assert registry.relation_of(config) is Relation.ADD_OR_REMOVE_ONE


def test_its_schema_has_to_be_public(config: PipelineConfig) -> None:
    document = config.model_dump(by_alias=True, mode="json")
    document["dataset"]["schema"] = "infer"
    with pytest.raises(ValueError, match="a DP run needs a curated public schema"):
        PipelineConfig.model_validate(document)


def test_a_line_without_one_claims_none() -> None:
    config = load_config(ROOT / "configs/adult_plain.yaml", overrides=[])
    assert not config.training.claims_guarantee and registry.relation_of(config) is None
