"""How long a private run took is written nowhere: it tells how many rows a client has."""

import json
from types import SimpleNamespace

import pytest

from federated.experiments import run as running
from federated.experiments.compare import compare
from federated.experiments.run import run_point
from federated.experiments.tracking import track, tracked
from privacy_pipeline.accounting.record import PrivacyRecord
from privacy_pipeline.reports.render.federated_page import cells, federated_page
from tests.federated.experiments import logistic
from tests.federated.experiments.experiment_files import PRIVACY, load_bound, write_experiment, write_people
from tests.federated.experiments.test_experiment_runs import register
from tests.guide import unlisted

STEP = 7_777.25  # of the clock, at each look


@pytest.fixture
def clock(monkeypatch):
    """A clock that leaps, so that every duration is a multiple of `STEP`."""
    looks = []

    def perf_counter():
        looks.append(None)
        return STEP * len(looks)

    monkeypatch.setattr(running, "time", SimpleNamespace(perf_counter=perf_counter))


@pytest.fixture(params=[True, False], ids=["private", "plain"])
def private(request):
    return request.param


@pytest.fixture
def point(tmp_path, private):
    write_people(tmp_path)
    more = {"every: 2": "every: 2, personalize: 5", f"folder: {tmp_path}/runs": f"folder: {tmp_path}/federated"}
    found = load_bound(write_experiment(tmp_path, *([PRIVACY] if private else []), **more))[0]
    if private:
        register(tmp_path, found)
    return found


def test_no_file_and_no_table_has_a_duration(clock, point, private, monkeypatch):
    monkeypatch.setattr(running._Run, "personalized", lambda *_: {})  # the engine of these tests has no Keras model
    summary = run_point(point, build=logistic.build)
    track(point, summary)
    rows, _ = compare([point])
    texts = [file.read_text(errors="replace") for file in point.folder.rglob("*") if file.is_file()]
    told = [*texts, json.dumps(tracked(point.config.folder)), json.dumps(cells(rows[0])), federated_page("e", rows)]
    found = [text for text in told if "7777" in text or "7,777" in text]
    assert bool(found) == (not private)
    assert ("seconds" in summary) == (not private) and (rows[0].seconds is None) == private
    if private:
        assert '"seconds"' not in (point.folder / "summary.json").read_text()
        record = PrivacyRecord.model_validate_json((point.folder / "privacy_record.json").read_text())
        uncovered = {access.what for access in record.data_accesses if not access.covered}
        assert {"times", "personalization", "evaluation"} <= uncovered
        assert record.versions.data.startswith("hmac-sha256:")


def test_an_older_summary_with_a_duration_is_not_compared_by_it(point, private, monkeypatch):
    monkeypatch.setattr(running._Run, "personalized", lambda *_: {})
    summary = run_point(point, build=logistic.build)
    (point.folder / "summary.json").write_text(json.dumps({**summary, "seconds": STEP}))
    rows, _ = compare([point])
    assert rows[0].seconds == (None if private else STEP)


def test_the_files_of_an_experiment_are_in_the_guide(point, tmp_path, monkeypatch):
    monkeypatch.setattr(running._Run, "personalized", lambda *_: {})
    summary = run_point(point, build=logistic.build)
    track(point, summary)
    files = unlisted(tmp_path)
    assert [name for name in files if name.startswith("federated/")] == []
