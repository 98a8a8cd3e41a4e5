"""Looks up a report's numbers and quotes where they say that they come from: in raw ledger rows and files."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from dp_accounting import NeighboringRelation
from dp_accounting.pld import PLDAccountant
from scipy.optimize import brentq  # type: ignore[import-untyped]

from privacy_pipeline.accounting.accountants import ORDERS, epsilon_from_rdp
from privacy_pipeline.accounting.events import from_json
from privacy_pipeline.reports.dataset_report import CurvePoint, DatasetReport
from privacy_pipeline.reports.figures import Figure, Loss, Quote, ReportPart, Source

# What the project of tests/reports/report_project.py holds, counted by hand.
COUNTS = {
    "runs without guarantee": 2,
    "runs with a fixed seed": 1,
    "charged runs without a record": 1,
    "unreadable runs": 1,
    "runs without a record": 1,
    "trainings": 5,
    "registered spans": 1,
    "runs with a guarantee": 3,
    "blessed runs with a guarantee": 3,
    "records that agree with the ledger": 4,
    "records with a ledger entry": 4,
    "runs with a guarantee and without an audit": 2,
}
UNRECORDED = {"run-8": {"run": "run-8", "status": "failed", "nodes": "ExampleGen, StatisticsGen"}}
ENTRIES = """
SELECT entries.*, planned.event AS event, executed.event AS executed_event, coalesce(executed.rdp, planned.rdp) AS rdp
FROM entries JOIN charges AS planned ON planned.digest = entries.planned
LEFT JOIN charges AS executed ON executed.digest = entries.executed ORDER BY entries.id
"""
CHOSEN = {"false-positive rate": (0.01, 0.1), "group size": (2, 5, 10)}


def walk(value: Any, delta: float | None = None) -> Iterator[tuple[Figure | Quote, float | None]]:
    """Every figure and quote of a report, an epsilon with the delta that it belongs to."""
    if isinstance(value, (Figure, Quote)):
        yield value, delta
    elif isinstance(value, (Loss, CurvePoint)):
        if value.epsilon is not None:
            yield value.epsilon, value.delta.value
        elif isinstance(value, Loss):
            yield Quote(quote=value.missing, source=Source(place="report", field="missing")), None
        yield value.delta, None
    elif isinstance(value, ReportPart):
        for name in type(value).model_fields:
            yield from walk(getattr(value, name), delta)
    elif isinstance(value, dict):
        for item in value.values():
            yield from walk(item, delta)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from walk(item, delta)


class Files:
    """The raw material of a project."""

    def __init__(self, folder: Path, facts: str) -> None:
        connection = sqlite3.connect(folder / "ledger" / "ledger.db")
        connection.row_factory = sqlite3.Row
        self.entries = {row["id"]: dict(row) for row in connection.execute(ENTRIES)}
        (self.budget,) = (dict(row) for row in connection.execute("SELECT * FROM budgets"))
        (self.registration,) = (dict(row) for row in connection.execute("SELECT * FROM registrations"))
        self.journal = {row["seq"]: dict(row) for row in connection.execute("SELECT * FROM journal")}
        connection.close()
        folders = sorted((folder / "workspace" / "runs").iterdir())
        self.summaries = {path.name: json.loads((path / "summary.json").read_text()) for path in folders}
        self.facts = yaml.load(facts, Loader=yaml.BaseLoader) if facts else {}
        self._pld: dict[str, PLDAccountant] = {}

    def find(self, source: Source, report: DatasetReport, delta: float | None) -> list[Any]:
        """Values that a figure or quote with this source may have."""
        find = {
            "ledger entry": self._entry,
            "ledger entries": self._entries,
            "budget": self._budget_value,
            "journal record": self._journal,
            "registration": self._registration,
            "record": self._record,
            "summary": self._summary,
            "workspace": self._workspace,
            "facts": lambda source, *_: [dig(self.facts, source.field)],
            "report": self._report,
        }[source.place]
        return find(source, report, delta)

    def _entry(self, source: Source, _report: DatasetReport, delta: float | None) -> list[Any]:
        row = self.entries[int(source.name)]
        return [self._epsilon([row], delta) if source.field == "epsilon" else row[source.field]]

    def _entries(self, source: Source, report: DatasetReport, delta: float | None) -> list[Any]:
        rows = self._rows(source.name)
        cap = self.budget["epsilon"]
        if source.method == "count":
            return [len(rows)]
        if source.method == "sum":
            return [math.fsum(self._epsilon([row], delta) for row in rows)]
        if source.method == "cap less held":
            return [cap - self._held(rows)]
        if source.method.startswith("group of "):
            return [self._group(rows, int(source.method.rpartition(" ")[2]))]
        if source.method.endswith("at the filter's order"):
            return [self._held(rows)]
        if source.method == "attack bound":
            (budget,) = report.budgets
            points = [(p.epsilon.value, p.delta.value) for curve in budget.curves for p in curve.points]
            return [attack(points, rate) for rate in (0.01, 0.1)]
        if source.field == "event":
            return [self._by_pld(source.name, rows).get_epsilon(delta)]
        assert source.field == "rdp" and source.method.startswith("stored charges added, then epsilon")
        return [self._epsilon(rows, delta)]

    def _rows(self, name: str) -> list[dict[str, Any]]:
        counted = [row for row in self.entries.values() if row["state"] != "expired"]
        if name.startswith("up to "):
            return [row for row in counted if row["id"] <= int(name.removeprefix("up to "))]
        numbers: set[int] = set()
        for part in name.split(", "):
            low, _, high = part.partition("-")
            numbers |= set(range(int(low), int(high or low) + 1))
        assert numbers == {row["id"] for row in counted}
        return counted

    def _epsilon(self, rows: list[dict[str, Any]], delta: float | None) -> float:
        assert delta is not None
        vectors = [json.loads(row["rdp"]) for row in rows]
        return epsilon_from_rdp(ORDERS, [math.fsum(column) for column in zip(*vectors, strict=True)], delta)

    def _at_order(self, rows: list[dict[str, Any]]) -> tuple[float, float, float]:
        """Order, divergence there, and what the order takes of epsilon with 0.99 of delta (Canonne et al. 2020)."""
        order, delta = self.budget["filter_order"], 0.99 * self.budget["delta"]
        value = math.fsum(json.loads(row["rdp"])[ORDERS.index(order)] for row in rows)
        return order, value, math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1)

    def _group(self, rows: list[dict[str, Any]], size: int) -> float:
        """The point of the curve whose delta, grown by the lemma, is the cap's; by another search than the report's."""

        def grown(log_delta: float) -> float:
            epsilon = self._epsilon(rows, math.exp(log_delta))
            return log_delta + math.log(sum(math.exp(epsilon * step) for step in range(size)))

        wanted = math.log(self.budget["delta"])
        root = brentq(lambda x: grown(x) - wanted, wanted - 200, wanted, xtol=1e-12)
        return size * self._epsilon(rows, math.exp(root))

    def _held(self, rows: list[dict[str, Any]]) -> float:
        _, value, taken = self._at_order(rows)
        return value + taken

    def _used(self, rows: list[dict[str, Any]]) -> float:
        _, value, taken = self._at_order(rows)
        return value / (self.budget["epsilon"] - taken)

    def _by_pld(self, name: str, rows: list[dict[str, Any]]) -> PLDAccountant:
        if name not in self._pld:
            accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL, 1e-4)
            for row in rows:
                accountant.compose(from_json(json.loads(row["executed_event"] or row["event"])))
            self._pld[name] = accountant
        return self._pld[name]

    def _budget_value(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        row, states = self.budget, [entry["state"] for entry in self.entries.values()]
        counted = [entry for entry in self.entries.values() if entry["state"] != "expired"]
        if source.method == "cap less held":
            return [row["epsilon"] - self._held(counted)]
        if source.method == "not listed":
            return [0]
        known = {
            "cap_epsilon": row["epsilon"],
            "cap_delta": row["delta"],
            "budget": f"{row['dataset']}/{row['split']}/{row['unit']}",
            "used": self._used(counted),
            "overruns": sum(bool(entry["overrun"]) for entry in self.entries.values()),
        }
        if source.field.startswith("entries."):
            return [states.count(source.field.removeprefix("entries."))]
        return [known[source.field] if source.field in known else row[source.field]]

    def _journal(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        if source.method == "attack bound":
            return [attack([(self.budget["epsilon"], self.budget["delta"])], rate) for rate in (0.01, 0.1)]
        if " of a group of " in source.method:
            what, _, size = source.method.partition(" of a group of ")
            epsilon, delta, steps = self.budget["epsilon"], self.budget["delta"], range(int(size))
            grown = {"epsilon": epsilon * int(size), "delta": delta * sum(math.exp(epsilon * step) for step in steps)}
            return [grown[what]]
        row = self.journal[int(source.name)]
        body = json.loads(row["body"])
        if source.field == "principal":
            return [body["principal"]]
        if source.field == "public_key":
            return [row["key_id"]]  # the first key signs its own record
        if source.field in ("epsilon", "delta"):
            return [body["budget"][source.field]]
        if source.field == "budget":
            return ["{dataset}/{split}/{unit}".format(**body["budget"])]
        return [row[source.field]]

    def _registration(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        if source.field.startswith("splits."):
            _, split, what = source.field.split(".")
            return [json.loads(self.registration["splits"])[split][("rows", "units").index(what)]]
        if source.field == "span":
            return [self.registration["span_key"] or "none"]
        return [self.registration[source.field]]

    def _record(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        record = self.summaries[source.name]["record"]
        return [0] if source.method == "not readable" else [dig(record, source.field)]

    def _summary(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        summary = self.summaries[source.name]
        overall = next(part for part in summary["slices"] if part["name"] == "overall")
        return [dig(summary | {"overall": overall}, source.field)]

    def _workspace(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        if source.field == "further runs":
            return [1, 2]  # beyond the three that are named: of five trainings, or of the four with a mechanism
        if source.field.startswith("unrecorded "):
            return [UNRECORDED[source.name][source.field.removeprefix("unrecorded ")]]
        return ["run-9"] if source.field == "unreadable run" else [COUNTS[source.field]]

    def _report(self, source: Source, report: DatasetReport, _delta: float | None) -> list[Any]:
        if source.field == "curve delta":
            return [point.delta.value for b in report.budgets for curve in b.curves for point in curve.points]
        return list(CHOSEN.get(source.field, [report.generated.quote]))


def attack(points: list[tuple[float, float]], rate: float) -> float:
    """The hypothesis-testing bound once more, by trying each point on both sides of the test."""
    worst = 1.0
    for epsilon, delta in points:
        ratio = 2.718281828459045**epsilon
        worst = min(worst, ratio * rate + delta, 1 - (1 - rate - delta) / ratio)
    return worst


def dig(value: Any, path: str) -> Any:
    """The value at a dotted path; names with dots or dashes are tried as a whole too."""
    if not path:
        return value
    head, _, rest = path.partition(".")
    if isinstance(value, list):
        return dig(value[int(head)], rest)
    return dig(value[head], rest) if head in value else value[path]
