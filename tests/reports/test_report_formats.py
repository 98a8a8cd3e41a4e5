"""HTML, JSON and registry record of the dataset report, and the command that writes them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from privacy_pipeline.cli.main import app
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.reports.dataset.compose import dataset_report
from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
from privacy_pipeline.reports.dataset.evidence import Evidence
from privacy_pipeline.reports.dataset.facts import ReportFacts, load_facts
from privacy_pipeline.reports.dataset.schema import report_schema, schema_text, to_json
from privacy_pipeline.reports.registry_yaml import DEMANDED, to_registry
from privacy_pipeline.reports.render.html import to_html
from privacy_pipeline.reports.render.pdf import to_pdf

ROOT = Path(__file__).parents[2]
REGISTRY = yaml.safe_load((ROOT / "tests/data/registry/deployments-schema.yaml").read_text())
SVG = "{http://www.w3.org/2000/svg}"


def registry_record(report: DatasetReport) -> dict:
    record = yaml.safe_load(to_registry(report))
    jsonschema.validate(record, REGISTRY, format_checker=jsonschema.FormatChecker())
    return record


def test_the_registry_takes_the_record(report: DatasetReport) -> None:
    record = registry_record(report)
    assert (record["tier"], record["status"], record["url_slug"]) == (3, "Draft", "things")
    parameters = record["deployment"]["privacy_loss"]["privacy_parameters"]
    (budget,) = report.budgets
    assert budget.proven.epsilon and parameters["delta"] == budget.proven.delta.value == 1e-5
    assert budget.proven.epsilon.value <= parameters["epsilon"] < budget.proven.epsilon.value + 0.001
    assert set(record["deployment"]) == {
        "basic", "dp_variant", "privacy_loss", "deployment_model", "accounting", "implementation", "administrative"
    }  # fmt: skip


def test_the_registrys_schema_refuses_what_it_should(report: DatasetReport) -> None:
    record = registry_record(report)
    record["deployment"]["deployment_model"]["model_name"] = "Encrypted"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, REGISTRY)


def test_a_registry_record_is_never_filled_with_guesses(evidence: Evidence) -> None:
    report = dataset_report(dataclasses.replace(evidence, facts=ReportFacts()))
    with pytest.raises(BadInputError, match=", ".join(DEMANDED)):
        to_registry(report)
    least = {name: getattr(evidence.facts, name) for name in DEMANDED}
    report = dataset_report(dataclasses.replace(evidence, facts=ReportFacts(**least)))
    model = registry_record(report)["deployment"]["deployment_model"]
    assert model == {
        "model_name_details": "not known",
        "release_type_details": "not known",
        "data_source_type_details": "not known",
        "access_type_details": "not known",
        "actors": "not known",
    }


def test_the_json_fits_its_schema_and_is_read_back(report: DatasetReport) -> None:
    text = to_json(report)
    jsonschema.validate(json.loads(text), report_schema())
    assert DatasetReport.model_validate_json(text) == report


def test_the_schema_refuses_a_number_without_a_source(report: DatasetReport) -> None:
    document = json.loads(to_json(report))
    del document["budgets"][0]["spent"]["epsilon"]["source"]
    with pytest.raises(jsonschema.ValidationError, match="source"):
        jsonschema.validate(document, report_schema())


def test_the_published_schema_is_current() -> None:
    published = ROOT / "docs/schemas/dataset_report.schema.json"
    fix = "privacy-pipeline budget report-schema --output docs/schemas/dataset_report.schema.json"
    assert published.read_text() == schema_text(), fix


def test_the_page_stands_alone(report: DatasetReport) -> None:
    page = to_html(report)
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))  # well-formed
    assert not [e for e in root.iter() if e.tag in ("script", "link", "img", "iframe", "object", "base", "form")]
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on") and name not in ("href", "src") and "url(" not in value
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"} and "@import" not in page
    assert "default-src 'none'" in page and "@media print" in page


def test_what_people_wrote_is_escaped(evidence: Evidence) -> None:
    facts = ReportFacts(product="<script>alert(1)</script>", actors='"><img src=x>')
    page = to_html(dataset_report(dataclasses.replace(evidence, facts=facts)))
    assert "<script>" not in page and "<img" not in page and "&lt;script&gt;" in page


def test_each_chart_is_a_picture_with_a_name(report: DatasetReport, tmp_path: Path) -> None:
    root = ElementTree.fromstring(to_html(report).removeprefix("<!DOCTYPE html>\n"))
    charts = list(root.iter(f"{SVG}svg"))
    names = [chart.find(f"{SVG}title").text for chart in charts]  # type: ignore[union-attr]
    assert names[1:] == [
        "What is left of the budget, over time",
        "All runs together: epsilon at each delta",
        "Utility against privacy: accuracy and epsilon of each run",
    ]
    for index, chart in enumerate(charts):
        labels = (chart.get("aria-labelledby") or "").split()
        assert [e.get("id") for e in chart if e.get("id")] == labels and len(labels) == 2
        if shutil.which("rsvg-convert"):
            ElementTree.register_namespace("", SVG.strip("{}"))
            (tmp_path / f"{index}.svg").write_bytes(ElementTree.tostring(chart))
            subprocess.run(["rsvg-convert", str(tmp_path / f"{index}.svg"), "-o", str(tmp_path / "x.png")], check=True)


def test_a_letter_that_the_pdfs_font_lacks_is_an_error_not_a_box(evidence: Evidence) -> None:
    report = dataset_report(dataclasses.replace(evidence, facts=ReportFacts(product="統計")))
    with pytest.raises(BadInputError, match="font has no") as error:
        to_pdf(report)
    assert "html" in error.value.fix


def test_the_command_writes_all_formats(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    runner = CliRunner()
    for name, start in (("html", b"<!DOCTYPE html>"), ("json", b"{"), ("registry", b"url_slug: things")):
        target = tmp_path / f"out.{name}"
        options = ["--format", name, "--output", str(target), "--facts", "facts.yaml"]
        done = runner.invoke(app, ["budget", "report", "things", *options])
        assert done.exit_code == 0, done.output
        assert target.read_bytes().startswith(start)
    assert [q["quote"] for q in json.loads((tmp_path / "out.json").read_text())["unreadable_runs"]] == ["run-9"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["strangers"], "dataset strangers is not registered"),
        (["things", "--ledger", "sqlite:///nowhere.db"], "there is no ledger"),
        (["things", "--facts", "none.yaml"], "no such file"),
        (["none.yaml"], "no such file"),
        (["things", "--format", "registry", "--output", "-"], "needs facts that only the curator can give"),
    ],
)
def test_bad_input_ends_with_exit_code_2(
    project: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(project)
    done = CliRunner().invoke(app, ["budget", "report", *arguments])
    assert done.exit_code == 2 and says in " ".join(done.stderr.split())


def test_the_guides_facts_file_is_valid(tmp_path: Path) -> None:
    guide = (ROOT / "docs/guides/report.md").read_text()
    (block,) = re.findall(r"```yaml\n(report:.*?)```", guide, flags=re.DOTALL)
    path = tmp_path / "facts.yaml"
    path.write_text(block)
    load_facts(path)
    assert set(ReportFacts.model_fields) == set(yaml.safe_load(block)["report"]), "the guide shows every key"
