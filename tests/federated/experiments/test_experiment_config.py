"""The experiment's YAML: a typo names its line, a grid is validated before anything runs."""

import dataclasses

import pytest

from federated.experiments.config import load_experiment, point_from_json, point_to_json
from federated.privacy.listed import MECHANISMS
from privacy_pipeline.errors import BadInputError
from tests.federated.experiments.experiment_files import DISTRIBUTED, PRIVACY, write_experiment


def test_a_grid_times_seeds_gives_distinct_points(tmp_path):
    path = write_experiment(tmp_path, "sweep: {clients_per_round: [5, 10], rounds: [1, 2, 3]}\n")
    config, points = load_experiment(path)
    assert len(points) == 12
    assert len({point.name for point in points}) == 12
    assert {(p.config.clients_per_round, p.config.rounds, p.seed) for p in points} == {
        (n, r, s) for n in (5, 10) for r in (1, 2, 3) for s in (1, 2)
    }
    assert all(point.config.sweep == {} for point in points)
    assert config.experiment == "small"
    _, again = load_experiment(path, overrides=["folder=elsewhere"])
    assert [p.name for p in again] == [p.name for p in points]
    assert point_from_json(point_to_json(points[3])) == points[3]


def test_a_grid_may_make_sections(tmp_path):
    path = write_experiment(
        tmp_path, "sweep: {data.clients: [null, {rule: iid, clients: 5}, {rule: label_skew, clients: 5, alpha: 0.1}]}\n"
    )
    _, points = load_experiment(path)
    assert [point.config.data.client_column for point in points[::2]] == ["who", None, None]


def test_ways_of_drawing_clients_that_an_extension_adds_give_runs_of_their_own(tmp_path, monkeypatch):
    """Else the result of one would stand for the other."""
    wider = dataclasses.replace(MECHANISMS["gaussian"], experiments=("poisson", "cyclic"))
    monkeypatch.setitem(MECHANISMS, "gaussian", wider)
    texts = [PRIVACY.replace("{", f"{{{more} ", 1) for more in ("", "sampling: poisson,", "sampling: cyclic,")]
    names = [load_experiment(write_experiment(tmp_path, text))[1][0].name for text in texts]
    assert names[0] == names[1] != names[2]


def test_runs_that_were_named_before_there_was_a_mechanism_keep_their_names(tmp_path):
    """A new name would run, and charge, the same settings again."""
    import hashlib
    import json

    _, points = load_experiment(write_experiment(tmp_path, PRIVACY))
    identity = points[0].config.model_dump(mode="json", exclude={"folder", "ledger"})
    identity["privacy"] = {
        name: identity["privacy"][name]
        for name in (
            *("target_epsilon", "noise_multiplier", "delta", "clipping_norm", "adaptive", "dropout", "straggler"),
        )
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    assert points[0].name == f"{digest[:10]}-s1"
    _, shared = load_experiment(write_experiment(tmp_path, DISTRIBUTED))
    _, other = load_experiment(write_experiment(tmp_path, DISTRIBUTED.replace("skellam", "discrete_gaussian")))
    assert len({points[0].name, shared[0].name, other[0].name}) == 3
    assert shared[0].config.privacy.scheme == "shuffled"


def test_an_experiment_reads_one_span(tmp_path):
    path = write_experiment(tmp_path, "")
    with pytest.raises(BadInputError, match="an experiment reads one span"):
        load_experiment(path, overrides=["data.dataset.span=[1,2]"])


@pytest.mark.parametrize(
    ("more", "replaced", "message"),
    [
        ("", {"rounds: 6": "round: 6"}, r"small.yaml:1[0-9]: unknown key 'round' at the top level"),
        ("sweep: {clients_per_roond: [1]}\n", {}, r"small.yaml:1\d: unknown key 'clients_per_roond'"),
        ("sweep: {rounds: [1, two]}\n", {}, r"small.yaml:1\d: rounds: must be an integer"),
        ("sweep: {rounds: [1, 1]}\n", {}, "same settings and seed twice"),
        ("", {"algorithm:": "algorithm:\n  name: fedsdg"}, "did you mean 'fedsgd'|must be 'fedavg'"),
        ("", {"algorithm:": "algorithm:\n  name: fedprox"}, "`proximal_strength` goes with `name: fedprox`"),
        (
            PRIVACY.replace("noise_multiplier: 1.0, ", ""),
            {},
            "give exactly one of `target_epsilon` and `noise_multiplier`",
        ),
        (PRIVACY, {"{key: who, contribution_bound: 4}": "row"}, "say who the clients are"),
        (
            PRIVACY,
            {"rounds: 6": "  clients: {column: town}\nrounds: 6"},
            "clients must be the dataset's privacy unit",
        ),
        (PRIVACY.replace("0.5", "0"), {}, "clipping_norm: must be greater than 0"),
        (PRIVACY.replace("{noise", "{sampling: shuffled, noise"), {}, "draws clients by `sampling: poisson`"),
        (PRIVACY.replace("{noise", "{mechanism: skellam, noise"), {}, "`distributed` goes with `mechanism: skellam`"),
        (PRIVACY.replace("{noise", "{distributed: {dimension: 8}, noise"), {}, "`distributed` goes with"),
        (DISTRIBUTED + "  sampling: poisson\n", {}, "`mechanism: skellam` has no bound for `sampling: poisson`"),
        (DISTRIBUTED + "  adaptive: {}\n", {}, "`adaptive` releases a count"),
        (DISTRIBUTED.replace("256", "200"), {}, "`dimension` must be a power of two: 256"),
        (DISTRIBUTED.replace(", min_clients: 7", ""), {}, "some clients do not report.*min_clients"),
        (DISTRIBUTED.replace("7}", "7, bits: 60}"), {}, "bits: must be at most 32"),
    ],
)
def test_mistakes_name_their_place(tmp_path, more, replaced, message):
    with pytest.raises(BadInputError) as caught:
        load_experiment(write_experiment(tmp_path, more, **replaced))
    import re

    told = f"{caught.value.message} {caught.value.fix}"
    assert re.search(message, told), told
