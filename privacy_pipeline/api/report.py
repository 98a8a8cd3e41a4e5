"""The report on a dataset over all its runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from privacy_pipeline.api.targets import named
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_bytes_atomically
from privacy_pipeline.pipelines.reporting.reporting import evidence
from privacy_pipeline.reports.dataset.compose import dataset_report
from privacy_pipeline.reports.dataset.facts import load_facts
from privacy_pipeline.reports.dataset.schema import to_json
from privacy_pipeline.reports.registry_yaml import to_registry
from privacy_pipeline.reports.render.html import to_html
from privacy_pipeline.reports.render.pdf import to_pdf
from privacy_pipeline.text.shown_text import in_html

if TYPE_CHECKING:
    from privacy_pipeline.api.configs import Given
    from privacy_pipeline.reports.dataset.dataset_report import DatasetReport
    from privacy_pipeline.reports.dataset.evidence import Evidence

Format = Literal["html", "pdf", "json", "registry"]
SUFFIXES: dict[Format, str] = {"html": ".html", "pdf": ".pdf", "json": ".json", "registry": ".yaml"}
_FORMATS: dict[Format, Callable[[DatasetReport], str | bytes]] = {
    "html": to_html,
    "pdf": to_pdf,
    "json": to_json,
    "registry": to_registry,
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report on a dataset. A notebook shows it as its page, in a frame of its own.

    Attributes:
        evidence: what it is made from.
        composed: the report as values.
        left_out: why run folders could not be read; the report names them.
    """

    evidence: Evidence = field(repr=False)
    composed: DatasetReport = field(repr=False)
    left_out: tuple[str, ...] = ()

    @property
    def dataset(self) -> str:
        """Name of the dataset."""
        return self.evidence.dataset

    def content(self, format: Format = "html") -> bytes:
        """Return the report as a file of a format has it.

        Raises:
            BadInputError: there is no such format; or facts that a record of the registry needs are missing.
        """
        if format not in _FORMATS:
            raise BadInputError(f"a report has no format {format!r}", fix=f"one of {', '.join(_FORMATS)}")
        made = _FORMATS[format](self.composed)
        return made if isinstance(made, bytes) else made.encode()

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the report; the ending of the name decides the format: .html, .pdf, .json or .yaml.

        Raises:
            BadInputError: the name has another ending; or as for `content`.
            OSError: the file cannot be written.
        """
        target = Path(path)
        formats = {suffix: format for format, suffix in SUFFIXES.items()}
        if target.suffix not in formats:
            raise BadInputError(f"{target}: the ending names no format", fix=f"one of {', '.join(formats)}")
        write_bytes_atomically(path=target, content=self.content(formats[target.suffix]))
        return target

    def _repr_html_(self) -> str:
        page = in_html(self.content().decode())
        style = "width: 100%; height: 40rem; border: 1px solid #d4dae1"
        return f'<iframe sandbox="" title="privacy report" style="{style}" srcdoc="{page}"></iframe>'


def report(
    target: Given,
    *,
    ledger: str | None = None,
    workspaces: Sequence[str | os.PathLike[str]] = (),
    facts: str | os.PathLike[str] | None = None,
    accepted: Sequence[str] = (),
    left_out: Callable[[str], None] = lambda _: None,
) -> Report:
    """Return a report on a dataset over all its runs: what is protected, how well, what is left, what is not covered.

    >>> import privacy_pipeline as pp
    >>> made = pp.report("config.yaml")
    >>> made.dataset, made.content("json")[:1]
    ('things', b'{')

    Args:
        target: name of a registered dataset; or the path of a YAML file, a mapping or a config that names it.
        ledger: SQLAlchemy URL of the ledger; by default the config's, or `sqlite:///ledger/ledger.db`.
        workspaces: folders with runs on the dataset; by default the config's, or `workspace`.
        facts: YAML file of facts that only the curator can give.
        accepted: ids of keys that replaced a lost one and that a person has checked.
        left_out: called with the reason for each run folder that cannot be read.

    Raises:
        BadInputError: there is no ledger, the dataset is not registered, or the facts are not usable.
        LedgerError: the ledger does not verify, or lacks a charge for which a run's record has a receipt.
    """
    reasons: list[str] = []

    def leave_out(why: str) -> None:
        reasons.append(why)
        left_out(why)

    found = evidence_of(
        target, ledger=ledger, workspaces=workspaces, facts=facts, accepted=accepted, left_out=leave_out
    )
    return Report(evidence=found, composed=dataset_report(found), left_out=tuple(reasons))


def evidence_of(
    target: Given,
    *,
    ledger: str | None,
    workspaces: Sequence[str | os.PathLike[str]],
    facts: str | os.PathLike[str] | None,
    accepted: Sequence[str],
    left_out: Callable[[str], None],
) -> Evidence:
    """Return what a report is made from; the arguments are those of `report`.

    Raises:
        BadInputError, LedgerError: as for `report`.
    """
    asked = named(target, ledger=ledger)
    told = None if facts is None else load_facts(Path(facts))
    roots = [Path(root) for root in workspaces] or [asked.workspace]
    return evidence(
        str(asked.dataset), ledger=asked.ledger, workspaces=roots, facts=told, accepted=accepted, left_out=left_out
    )
