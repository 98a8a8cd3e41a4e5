"""Fuzzers of what people write: configs, experiments, policies, addresses of parties, facts of a report."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from federated.experiments.config import load_experiment
from privacy_pipeline.config.loader import load_config
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.data import source
from privacy_pipeline.encrypted.transport import dialing
from privacy_pipeline.encrypted.transport.certificates import init_parties
from privacy_pipeline.ledger.state.policy import STARTER, load_policy
from privacy_pipeline.pipelines.preflight import preflight
from privacy_pipeline.reports.dataset.compose import dataset_report
from privacy_pipeline.reports.dataset.evidence import Evidence, read_ledger
from privacy_pipeline.reports.dataset.facts import load_facts
from privacy_pipeline.reports.dataset.schema import to_json
from privacy_pipeline.reports.registry_yaml import to_registry
from privacy_pipeline.reports.render.html import to_html
from tests.fuzz import project
from tests.fuzz.mutations import YAML_SCALARS, as_yaml, mutated_tree, paths, value_at
from tests.fuzz.watching import Case, Watch
from tests.reports.report_project import FACTS_YAML, make_project, summaries

_CHECKED_WITH_BUDGET = 0.02  # of the configs; a calibration takes seconds


def configs(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """Configs and overrides, checked as `check` does."""
    shipped = project.copy_shipped(folder)
    os.chdir(folder)
    budgeted = project.registered(shipped)
    trees = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in shipped]
    file = folder / "config.yaml"

    def draw(rng: Random) -> Case:
        tree = mutated_tree(rng, rng.choice(trees), trees)
        if rng.random() < _CHECKED_WITH_BUDGET:
            tree = mutated_tree(rng, rng.choice(budgeted), trees)
        raw = as_yaml(rng, tree)
        overrides = [_override(rng, trees) for _ in range(rng.choice((0, 0, 0, 0, 0, 0, 1, 2)))]

        def read() -> None:
            file.write_bytes(raw)
            config = load_config(file, overrides=overrides)
            _checked(config, watch)

        return Case(content=raw, read=read, told=f"--set {overrides}"[:500])

    return draw


def _checked(config: PipelineConfig, watch: Watch) -> None:
    span = source.resolve(dataset=config.dataset).span
    with watch.dp_check():
        checked = preflight.check(config, span=span)
        if checked.plan is not None and checked.forecast is not None:
            preflight.forecast_facts(checked.plan, checked.forecast)
    preflight.check_source(config, checked.features)


def _override(rng: Random, trees: list[Any]) -> str:
    tree = rng.choice(trees)
    path = rng.choice(paths(tree))
    key = ".".join(map(str, path))
    value = rng.choice(YAML_SCALARS).decode("utf-8", "surrogateescape")
    if rng.random() < 0.6:
        value = yaml.safe_dump(value_at(tree, path), default_flow_style=True)
    if rng.random() < 0.8:
        return f"{key}={value}"
    return rng.choice((f"{key}.x={value}", f"{key}", f"={value}", f"{'a.' * 2_000}b=1"))


def experiments(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """Federated experiments and their grids."""
    shutil.copytree(project.ROOT / "configs", folder / "configs")
    trees = [yaml.safe_load(path.read_text("utf-8")) for path in sorted((folder / "configs/federated").glob("*.yaml"))]
    os.chdir(folder)
    file = folder / "experiment.yaml"

    def draw(rng: Random) -> Case:
        tree = mutated_tree(rng, rng.choice(trees), trees)
        if rng.random() < 0.2 and isinstance(tree, dict):
            tree["sweep"] = _grid(rng, tree)
        raw = as_yaml(rng, tree)

        def read() -> None:
            file.write_bytes(raw)
            load_experiment(file)

        return Case(content=raw, read=read)

    return draw


def _grid(rng: Random, tree: dict[str, Any]) -> dict[str, Any]:
    """A grid that may be far too large, lead nowhere, or hold values of all kinds."""
    keys = rng.sample(paths(tree), min(len(paths(tree)), rng.randrange(1, 7))) if tree else [("x",)]
    many = rng.choice((1, 2, 20, 400))
    return {".".join(map(str, key)): list(range(many)) if rng.random() < 0.7 else [[{}], None] for key in keys}


def policies(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """Policies of a budget; one that is read can be stored and read again."""
    starter = yaml.safe_load(STARTER.format(dataset="adult", unit="row"))
    whole = {
        **starter,
        "shares": {"train": 0.5, "tune": 0.2, "evaluate": 0.2, "preprocess": 0.1},
        "eval_epsilon": 3.0,
        "ceiling": 8.0,
        "may_spend": ["alice", "bob"],
        "require_guarantee": True,
        "allowed_backends": ["dp_sgd"],
        "alerts": [0.5, 0.9],
    }
    file = folder / "policy.yaml"

    def draw(rng: Random) -> Case:
        raw = as_yaml(rng, mutated_tree(rng, rng.choice((starter, whole)), [starter, whole]))

        def read() -> None:
            file.write_bytes(raw)
            load_policy(file).to_json()

        return Case(content=raw, read=read)

    return draw


_ADDRESSES = (
    "127.0.0.1:0", "127.0.0.1:99999", "[::1]:80", ":", "h:p", "127.0.0.1:-1", "127.0.0.1:１", "127.0.0.1: 80", "a:1:2",
    "\u202e:1", "127.0.0.1:1e3", 80, ["127.0.0.1", 80], "h:²", "h:" + "9" * 5_000, "h" * 100_000 + ":80", "\x00:80",
    "é:80", "a b:80", ":80", "h:080", {"h": 80}, 127.0, True,
)  # fmt: skip


def parties(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """Addresses of parties, as the CLI writes them and as a person may change them."""
    init_parties(folder=folder / "parties")
    file = folder / "parties" / "parties.yaml"
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))

    def draw(rng: Random) -> Case:
        changed = mutated_tree(rng, tree, [tree]) if rng.random() < 0.5 else dict(tree)
        if isinstance(changed, dict) and rng.random() < 0.6:
            changed[rng.choice(list(tree))] = rng.choice(_ADDRESSES)
        raw = as_yaml(rng, changed)

        def read() -> None:
            file.write_bytes(raw)
            dialing.addresses(file.parent)

        return Case(content=raw, read=read)

    return draw


def facts(folder: Path, watch: Watch) -> Callable[[Random], Case]:
    """Facts that a curator tells; those that are read go through a report, and some through a registry record."""
    made = folder / "made"
    make_project(made)
    held = Evidence(
        dataset="things",
        ledger=read_ledger(f"sqlite:///{made}/ledger/ledger.db", "things"),
        runs=summaries(made, ["run-1", "run-2"]),
        generated="2026-11-23",
    )
    tree, file = yaml.safe_load(FACTS_YAML), folder / "facts.yaml"
    tree["report"]["publication_date"] = "2026-11-23"
    tree["report"]["reviews"][0]["date"] = "2026-11-20"

    def draw(rng: Random) -> Case:
        raw = as_yaml(rng, mutated_tree(rng, tree, [tree]))
        written = rng.random() < 0.1

        def read() -> None:
            file.write_bytes(raw)
            told = load_facts(file)
            if written:
                with watch.dp_check():
                    _reports(dataclasses.replace(held, facts=told))

        return Case(content=raw, read=read)

    return draw


def _reports(evidence: Evidence) -> None:
    report = dataset_report(evidence)
    to_html(report).encode()
    to_json(report).encode()
    yaml.load(to_registry(report).encode(), Loader=yaml.CSafeLoader)
