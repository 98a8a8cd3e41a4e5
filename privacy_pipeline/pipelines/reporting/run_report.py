"""The dataset's report as it was at the end of a run: an artifact of the run. Imports no TFX."""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.pipelines.reporting.reporting import evidence
from privacy_pipeline.pipelines.workspace import metadata

if TYPE_CHECKING:
    from privacy_pipeline.pipelines.workspace.run_state import RunState
    from privacy_pipeline.pipelines.workspace.workspace import RunFolder

FOLDER = "report"
HTML, JSON = "report.html", "report.json"


def add_report(folder: RunFolder, state: RunState, config: PipelineConfig) -> None:
    """Write the report of the run's dataset into the run's folder, and publish it to ML Metadata.

    A run that did not finish, was partial, or is on a dataset without a budget has no report. If the report cannot be
    made (for example, the ledger does not verify), the run still counts, and its state names the reason.
    """
    if state.status not in ("done", "not_blessed") or folder.read_summary() is None:
        return
    if not _registered(config):
        return
    try:
        state.report = _write(folder, config)
    except PipelineError as error:
        state.report_problem = error.message
    folder.write_state(state)


def _registered(config: PipelineConfig) -> bool:
    from privacy_pipeline.ledger.ledger import Ledger

    try:
        ledger = Ledger.open(config.ledger)
    except BadInputError:  # there is no ledger, and so nothing to report on
        return False
    return bool(ledger.status(config.dataset.name))


def _write(folder: RunFolder, config: PipelineConfig) -> str:
    from privacy_pipeline.reports.dataset.compose import dataset_report
    from privacy_pipeline.reports.dataset.schema import to_json
    from privacy_pipeline.reports.render.html import to_html

    report = dataset_report(evidence(config.dataset.name, ledger=config.ledger, workspaces=[config.workspace]))
    target = folder.path / FOLDER
    target.mkdir(exist_ok=True)
    write_atomically(path=target / JSON, text=to_json(report))
    write_atomically(path=target / HTML, text=to_html(report))
    connection = metadata.connection_config(config)
    metadata.publish_report(connection, run_id=folder.run_id, uri=str(target), dataset=config.dataset.name)
    return str(target / HTML)
