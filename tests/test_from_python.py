"""The page docs/guides/python.md as a notebook would run it, and what a notebook shows."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import privacy_pipeline as pp
from privacy_pipeline.api.outcome import Run, RunFailedError
from privacy_pipeline.api.runs import Runs
from privacy_pipeline.dp import Execution
from privacy_pipeline.errors import BadInputError, BudgetRefusedError, ExitCode
from privacy_pipeline.pictures.fragment import paragraph, table
from privacy_pipeline.pipelines.workspace.run_state import Failure
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from tests.cli.test_tables import made_run, make_state
from tests.docs.pages import of_page
from tests.pipelines.projects import write_project
from tests.reports.records import dp_record, make_summary, plain_record

PAGE = "docs/guides/python.md"
BLOCKS = [block.code for block in of_page(PAGE) if block.language == "python"]
LOW_BAR = {"thresholds": {"accuracy": {"min": 0.01}}}
HOSTILE = "<script>alert(1)</script> & \u202e"


def html_of(shown: Any) -> str:
    """What a notebook shows; well formed, without scripts, and fetching nothing."""
    text: str = shown._repr_html_()
    ElementTree.fromstring(f"<html>{text}</html>")
    assert "<script" not in text and "\u202e" not in text
    outside = re.sub(r'srcdoc="[^"]*"', "", text).replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|url\(|\son\w+=", outside)
    return text


class Notebook:
    """Runs blocks one after the other, and keeps what the last expression of each shows."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"pp": pp}

    def run(self, code: str) -> Any:
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, PAGE, "exec"), self.names)
        if last is None:
            return None
        return eval(compile(ast.Expression(last.value), PAGE, "eval"), self.names)


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """A notebook in a folder with data and a schema."""
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return Notebook()


def test_a_model_of_ones_own_shows_its_guarantee_and_epsilon_by_step(notebook: Notebook) -> None:
    text = html_of(notebook.run(BLOCKS[0]))
    assert re.search(r"<strong>epsilon (1\.9\d\d|2\.000) at delta 1e-05", text)
    assert "30 of 30" in text and "Epsilon of this training, by step" in text and "<polyline" in text


def test_a_training_without_a_guarantee_shows_no_epsilon() -> None:
    numbers: dict[str, Any] = {"units": 100, "expected_batch_size": 10, "steps": 5, "delta": 1e-3, "clipping_norm": 1.0}
    plan = pp.PrivacyPlan.calibrated(noise_multiplier=1.0, **numbers)
    made = Execution(
        plan=plan,
        steps=3,
        largest_participation=None,
        seed_fixed=True,
        generator=HOSTILE,
        cryptographic=True,
        stopped_early=True,
        not_covered=(HOSTILE,),
    )
    text = html_of(made)
    assert "no guarantee: the seed was fixed" in text and "<svg" not in text and "3 of 5, stopped early" in text
    text = html_of(dataclasses.replace(made, seed_fixed=False))
    (highest,) = re.findall(r"after 3 steps: epsilon (\d\.\d+)", text)
    alone = dataclasses.replace(plan, steps=3).guarantee().epsilon_rdp
    assert alone is not None and float(highest) == pytest.approx(alone, abs=1e-3)


def test_a_dataset_is_registered_and_checked_without_a_file(notebook: Notebook) -> None:
    before, given = os.umask(0o022), set(Path().rglob("*"))
    try:
        registered = html_of(notebook.run(BLOCKS[1]))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert "dataset things (span 1) is registered" in registered and "160 rows of 160 units" in registered
    made = set(Path().rglob("*")) - given
    assert Path("ledger/ledger.db") in made and not [
        path for path in made if path.stat().st_mode & 0o077 and path.name != "ledger_pin.json"
    ]
    checked = notebook.run(BLOCKS[2])
    text = html_of(checked)
    assert checked.fits and "a run fits its budget" in text and "0.000 counted, this run" in text and "<svg" in text
    budgets = html_of(notebook.run(BLOCKS[5]))
    assert "things/train/row: 0.000 counted, 3.000 left" in budgets and budgets.count("<svg") == 1
    for shown in (notebook.names["ledger"], notebook.names["ledger"].status()[0]):
        assert html_of(shown).count("<svg") == 1 and "<td" in html_of(shown)
    assert "no runs in workspace" in html_of(notebook.run(BLOCKS[6]))


@pytest.mark.slow
def test_the_page_runs_from_its_first_block_to_its_last(notebook: Notebook, capsys: pytest.CaptureFixture[str]) -> None:
    shown = [found for found in map(notebook.run, BLOCKS) if found is not None]
    texts = [html_of(one) for one in shown if hasattr(one, "_repr_html_")]
    assert len(texts) == 7
    done = notebook.names["done"]
    assert done.status == "done" and done.record.guarantee.epsilon <= 1.0
    run = next(text for text in texts if done.run_id in text and "privacy record" in text)
    assert "things/train/row" in run and "<svg" in run and "accuracy" in run
    assert any(done.run_id in text and "DP</td>" in text for text in texts)
    assert Path("things.html").exists()
    out = capsys.readouterr().out
    assert "did you mean 'training'?" in out and "at delta 1e-05, accuracy 0." in out
    assert pp.runs("workspace")[0].run_id == pp.runs("workspace").find(done.run_id).run_id == done.run_id


def test_a_run_that_does_not_fit_is_found_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_project(tmp_path, backend="dp_sgd", evaluation=LOW_BAR)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BudgetRefusedError, match=r"is not registered|there is no ledger"):
        pp.check(config)
    pp.register(config, epsilon=0.1)
    checked = pp.check(config)
    assert not checked.fits and "does not fit its budget" in html_of(checked)
    for refused in (checked.require_fits, lambda: pp.run(config)):
        with pytest.raises(BudgetRefusedError, match="costs epsilon") as caught:
            refused()
        assert "CONFIG" in caught.value.fix
    assert len(pp.runs(config.workspace)) == 0


def test_a_plain_run_is_shown_as_one_without_a_guarantee(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = html_of(pp.check(config))
    assert "no training guarantee" in text and "<svg" not in text and "may reveal single rows" in text


def made(**changes: Any) -> Run:
    return made_run(make_state(), make_summary(dp_record(), **changes))


def test_a_run_shows_metrics_record_and_budget() -> None:
    text = html_of(made())
    assert "run run-1: done" in text and "privacy record" in text
    assert "at delta 1e-05 (PLD)" in text and "things/train/row: 1.500 spent with this run" in text
    assert "<svg" not in html_of(made_run(make_state(), make_summary(plain_record())))
    assert "it made no record" in html_of(made_run(make_state(), None))


def test_runs_are_a_table_and_a_sequence() -> None:
    runs = Runs(workspace=Path("w"), found=(made(), made_run(make_state(run_id="run-2"), None)), left_out=(HOSTILE,))
    text = html_of(runs)
    assert "run-1" in text and "run-2" in text and "(0.63" in text and "left out" in text
    assert [run.run_id for run in runs] == ["run-1", "run-2"] and runs[-1].run_id == "run-2" and len(runs[:1]) == 1
    assert runs.to_json()[0]["run_id"] == "run-1"


def test_a_script_prints_what_a_notebook_shows_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_project(tmp_path, backend="dp_sgd", evaluation=LOW_BAR)
    monkeypatch.chdir(tmp_path)
    registered = (
        "dataset things (span 1) is registered: eval 40 rows of 40 units, train 160 rows of 160 units; epsilon 0.1 at"
    )
    assert str(pp.register(config, epsilon=0.1)).startswith(registered)
    checked = str(pp.check(config))
    assert re.match(r"things, backend dp_sgd: a run does not fit its budget; epsilon \d\.\d+ at delta", checked)
    assert "costs epsilon" in checked and ". Fix: " in checked
    assert str(made()) == "run run-1: done; guarantee (0.634, 1e-05)-DP"
    failure = Failure(node="Trainer", message=HOSTILE, fix="", exit_code=1)
    failed = made_run(make_state(status="failed", failure=failure), None)
    assert str(failed) == "run run-1: failed; <script>alert(1)</script> & \\u202e"
    runs = Runs(workspace=Path("w"), found=(made(), failed), left_out=(HOSTILE,))
    assert str(runs).splitlines() == [str(made()), str(failed), "left out: <script>alert(1)</script> & \\u202e"]
    assert str(Runs(workspace=Path("w"), found=())) == "no runs in w"


def test_no_text_is_markup() -> None:
    for shown in (paragraph(HOSTILE), table([(HOSTILE, HOSTILE)], head=(HOSTILE, "b"), caption=HOSTILE)):
        ElementTree.fromstring(shown)
        assert "<script" not in shown and "&lt;script&gt;" in shown and "\\u202e" in shown
    run = made_run(make_state(pipeline=HOSTILE), make_summary(dp_record(), reasons=[HOSTILE], blessed=False))
    html_of(run)
    html_of(Runs(workspace=Path(HOSTILE), found=(run,)))
    failure = Failure(node="Trainer", message=HOSTILE, fix=HOSTILE, exit_code=1)
    html_of(made_run(make_state(status="failed", failure=failure), None))


def test_a_failed_run_is_an_error_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = Failure(node="ExampleGen", message="rows.csv:3: bad", fix="correct it", exit_code=2)
    state = make_state(status="failed", failure=failure)
    folder = RunFolder(Path("workspace/runs/run-1"))
    monkeypatch.setattr(RunFolder, "read_summary", lambda _: None)
    monkeypatch.setattr("privacy_pipeline.api.run.runs.start", lambda **_: (folder, state))
    config = {"pipeline": "p", "dataset": {"name": "d", "path": "d", "schema": "s", "positive_class": "yes"}}
    config |= {"training": {"backend": "plain", "epochs": 1, "batch_size": 1}, "evaluation": LOW_BAR}
    with pytest.raises(BadInputError, match="label"):
        pp.run(config)
    config["dataset"]["label"] = "l"  # type: ignore[index]
    with pytest.raises(RunFailedError, match=r"rows\.csv:3: bad") as caught:
        pp.run(config)
    assert (caught.value.fix, caught.value.exit_code) == ("correct it", ExitCode.BAD_INPUT)
    assert caught.value.run.state.failure == failure


def test_a_report_has_each_format(notebook: Notebook) -> None:
    notebook.run(BLOCKS[1])
    report = pp.report("things")
    assert 'sandbox=""' in html_of(report) and report.dataset == "things"
    for name in ("r.html", "r.pdf", "r.json"):
        assert report.write(name).stat().st_size > 1000
    with pytest.raises(BadInputError, match="the ending names no format"):
        report.write("r.txt")
    with pytest.raises(BadInputError, match="no format 'odt'"):
        report.content("odt")  # type: ignore[arg-type]


def test_a_config_is_the_same_from_a_file_and_from_a_mapping(tmp_path: Path) -> None:
    config = write_project(tmp_path, backend="dp_sgd")
    document = json.loads(config.model_dump_json(by_alias=True, exclude_unset=True))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document))
    of_file = pp.load_config(tmp_path / "c.yaml")
    assert of_file == pp.load_config(document) == pp.load_config(config)
    assert pp.load_config(config, overrides=["training.epochs=7"]).training.epochs == 7
    assert pp.load_config(str(tmp_path / "c.yaml"), overrides=["training.epochs=7"]).training.epochs == 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pipeline": object()}, "config: pipeline: a config holds no object"),
        ({1: "x"}, "config: key 1 is not a text"),
        ({"pipeline": "a\0"}, r"config: pipeline: a text holds \\0"),
        ({"training": {"epochs": 1 << 70}}, "config: training.epochs: an integer has more than 64 bits"),
        ({"ledger": "postgresql://a:b@h/x"}, "config: ledger: a config holds no passwords"),
        ({"metadata": {"password": "abc"}}, "config: metadata.password: a config holds no passwords"),
        ({"training": {"backend": "plain", "epochs": "5"}}, r"config: training.epochs: must be an integer \(got '5'\)"),
        ({"dataset": []}, "config: dataset: must be a mapping"),
    ],
)
def test_an_error_in_a_mapping_names_the_key_and_no_line(change: dict[Any, Any], says: str) -> None:
    base = {"pipeline": "p", "dataset": {}, "training": {}, "evaluation": {}}
    with pytest.raises(BadInputError, match=says) as caught:
        pp.load_config({**base, **change})
    assert not re.search(r"config:\d", caught.value.message)


def test_a_mapping_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(BadInputError, match="is nested too deeply"):
        pp.load_config(endless)


PLAN: dict[str, Any] = {"epochs": 1, "epsilon": 1.0, "delta": 1e-5, "clipping_norm": 1.0}


@pytest.mark.parametrize(
    "call, message, fix",
    [
        (lambda: pp.load_config(None), "NoneType is not a config", "path of a YAML file, a dict"),
        (lambda: pp.check([1]), "list is not a config", "path of a YAML file, a dict"),
        (lambda: pp.load_config("."), r"\.: cannot be read", "give the YAML file in it"),
        (lambda: pp.Ledger("sqlite:///a.db"), "str is not an engine", "Ledger.open"),
        (lambda: pp.Ledger.open(Path("a.db")), "Path is not a SQLAlchemy URL", "sqlite:///"),
        (
            lambda: pp.PrivacyPlan.calibrated(units=60, expected_batch_size=600, **PLAN),
            "sampling probability must lie",
            "at most units",
        ),
    ],
)
def test_a_wrong_argument_is_an_error_that_states_what_to_give(call: Any, message: str, fix: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        call()
    assert fix in caught.value.fix


def test_a_file_in_the_place_of_the_folder_of_the_data_is_named(notebook: Notebook) -> None:
    Path("shop.csv").touch()
    given = {"name": "shop", "path": "shop.csv", "schema": "schema.pbtxt", "label": "bought", "positive_class": "yes"}
    training = {"backend": "plain"}
    with pytest.raises(BadInputError, match=r"a file, but dataset\.path is the folder") as caught:
        pp.check({"pipeline": "shop", "dataset": given, "training": training, "evaluation": LOW_BAR})
    assert caught.value.fix == "set dataset.path to . and dataset.input to shop.csv"
