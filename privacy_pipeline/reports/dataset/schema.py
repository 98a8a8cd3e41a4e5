"""The JSON schema of the dataset report."""

from __future__ import annotations

import json

from pydantic.json_schema import GenerateJsonSchema

from privacy_pipeline.reports.dataset.dataset_report import SCHEMA_ID, DatasetReport
from privacy_pipeline.text.shown_text import in_json


def report_schema() -> dict[str, object]:
    """Return the schema of the JSON that `to_json` writes."""
    schema = DatasetReport.model_json_schema(mode="serialization")
    return {"$schema": GenerateJsonSchema.schema_dialect, "$id": SCHEMA_ID} | schema


def schema_text() -> str:
    """Return the schema as it is published."""
    return json.dumps(report_schema(), indent=2) + "\n"


def to_json(report: DatasetReport) -> str:
    """Return the report as JSON."""
    return in_json(report.model_dump_json(indent=2)) + "\n"
