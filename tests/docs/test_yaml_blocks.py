"""Each YAML block of a page is taken by the models of the file that it is a part of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from federated.experiments.config import load_experiment
from privacy_pipeline.config.loader import load_config
from privacy_pipeline.reports.dataset.facts import load_facts
from tests.docs.pages import ROOT, RUN_BY, all_blocks

BLOCKS = [
    (page, block) for page, block in all_blocks() if block.language == "yaml" and block.fenced and page not in RUN_BY
]
# Where a block's first key stands in the file that it is a part of; by itself it is a part of the root.
BELOW = {"tuning": "training"}
# Examples of configs that a block changes, and what else has to change with it.
CONFIG, EXPERIMENT = "configs/adult_dp_sgd.yaml", "configs/federated/nlswork.yaml"
EXPERIMENT_KEYS = {"sweep", "privacy", "silo_privacy", "data"}


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """A document with the keys of another put in, mapping by mapping."""
    found = dict(base)
    for key, value in change.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return found


def with_base(change: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The example that a block changes, and the whole document."""
    first = next(iter(change))
    if first == "report":
        return "facts", change
    if first == "experiment":
        return EXPERIMENT, change
    base = EXPERIMENT if first in EXPERIMENT_KEYS else CONFIG
    document = yaml.safe_load((ROOT / base).read_text())
    if base == EXPERIMENT:
        document.pop("sweep")
    if "silo_privacy" in change:
        document |= {"clients_per_round": len(change["silo_privacy"]["silos"])}
        document["algorithm"] = {"name": "fedavg"}
    if change.get("evaluation", {}).get("dp"):
        document["evaluation"] = {}  # noisy counts have no auc and no baseline
    if first == "metadata":
        document.pop("metadata", None)
    return base, merged(document, {BELOW[first]: change} if first in BELOW else change)


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{page}:{block.line}" for page, block in BLOCKS])
def test_a_block_is_taken(page: str, block: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change = yaml.safe_load(block.code.replace(", ...}", "}"))
    base, document = with_base(change)
    monkeypatch.chdir(ROOT)
    file = tmp_path / "block.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    if base == "facts":
        assert load_facts(file)
    elif base == EXPERIMENT:
        assert load_experiment(file)
    else:
        assert load_config(file)


def test_a_key_that_there_is_not_is_noticed(tmp_path: Path) -> None:
    _, document = with_base({"tuning": {"methods": "each"}})
    file = tmp_path / "block.yaml"
    file.write_text(yaml.safe_dump(document))
    with pytest.raises(Exception, match="methods"):
        load_config(file)
