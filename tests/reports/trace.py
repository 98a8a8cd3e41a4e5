"""Looks up a report's numbers and quotes where they say that they come from: in raw ledger rows and files."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dp_accounting import NeighboringRelation
from dp_accounting.pld import PLDAccountant
from scipy.optimize import brentq  # type: ignore[import-untyped]

from privacy_pipeline.accounting.events import from_json
from privacy_pipeline.accounting.renyi import ORDERS, epsilon_from_rdp
from privacy_pipeline.reports.dataset.dataset_report import CurvePoint, DatasetReport
from privacy_pipeline.reports.figures import COVERED, DAY, Figure, Loss, Quote, ReportPart, Source

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
FURTHER = (1, 2)  # beyond the three that are named: of five trainings, or of the four with a mechanism
UNRECORDED = {"run-8": {"run": "run-8", "status": "failed", "nodes": "ExampleGen, StatisticsGen"}}
ENTRIES = """
SELECT entries.*, planned.event AS event, executed.event AS executed_event, coalesce(executed.rdp, planned.rdp) AS rdp,
coalesce(executed.total_variation, planned.total_variation) AS distance
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


def untraced(report: DatasetReport, files: Files) -> list[tuple[Figure | Quote, list[Any]]]:
    """Figures and quotes that are not what their source says, with that; the source of each can be found."""
    wrong, checked = [], 0
    for part, delta in walk(report):
        if isinstance(part, Quote) and part.source.field == "missing":
            continue
        expected = files.find(part.source, report, delta)
        if isinstance(part, Quote):
            right = part.quote in [str(value) for value in expected]
        else:
            # PLD rounds to its grid once for each composition, and the trace composes one entry after the other.
            room = 1e-3 if part.source.method.startswith("PLD") else 1e-9
            right = any(part.value == pytest.approx(value, rel=room, abs=1e-12) for value in expected)
        wrong += [] if right else [(part, expected)]
        checked += 1
    assert checked > 400
    return wrong


class Files:
    """The raw material of a project, and what it holds, counted by hand."""

    def __init__(self, folder: Path, facts: str, *, counts: Mapping[str, int], further: tuple[int, ...] = ()) -> None:
        self.counts, self.further = counts, further
        connection = sqlite3.connect(folder / "ledger" / "ledger.db")
        connection.row_factory = sqlite3.Row
        self.entries = {row["id"]: dict(row) for row in connection.execute(ENTRIES)}
        self.budgets = {key_of(row): dict(row) for row in connection.execute("SELECT * FROM budgets")}
        self.registrations = {span_of(row): dict(row) for row in connection.execute("SELECT * FROM registrations")}
        self.journal = {row["seq"]: dict(row) for row in connection.execute("SELECT * FROM journal")}
        connection.close()
        folders = sorted((folder / "workspace" / "runs").iterdir())
        self.summaries = {path.name: json.loads((path / "summary.json").read_text()) for path in folders}
        self.facts = yaml.load(facts, Loader=yaml.BaseLoader) if facts else {}
        self._secret = bytes.fromhex((folder / "ledger" / "ledger_units.key").read_text())
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
        if source.method == DAY:
            return [value[:10] for value in find(source.model_copy(update={"method": ""}), report, delta)]
        if source.method == COVERED:
            return [self._covered(value) for value in find(source.model_copy(update={"method": ""}), report, delta)]
        return find(source, report, delta)

    def _covered(self, digest: str) -> str:
        made = hmac.new(self._secret, b"privacy_pipeline: digest of data\0" + digest.encode(), hashlib.sha256)
        return f"hmac-sha256:{made.hexdigest()}"

    def _entry(self, source: Source, _report: DatasetReport, delta: float | None) -> list[Any]:
        row = self.entries[int(source.name)]
        return self._stated([row], delta) if source.field == "epsilon" else [row[source.field]]

    def _entries(self, source: Source, report: DatasetReport, delta: float | None) -> list[Any]:
        budget, rows = self._rows(source.name)
        if source.method == "count":
            return [len(rows)]
        if source.method == "sum":
            return [math.fsum(self._epsilon([row], delta) for row in rows)]
        if source.method == "cap less held":
            return [budget["epsilon"] - self._held(budget, rows)]
        what, _, size = source.method.partition(" of a group of ")
        if size:  # of a single entry, whose own pair is proven
            return [grown(self._epsilon(rows, budget["delta"]), budget["delta"], int(size))[what]]
        if source.method.startswith("group of "):
            return [self._group(budget, rows, int(source.method.rpartition(" ")[2]))]
        if source.method.endswith("at the filter's order"):
            return [self._held(budget, rows)]
        if source.method == "attack bound":
            (view,) = (view for view in report.budgets if view.key.quote == key_of(budget))
            points = [(p.epsilon.value, p.delta.value) for curve in view.curves for p in curve.points]
            points = points if rows else [(0.0, 0.0)]
            return [attack(points, rate) for rate in (0.01, 0.1)]
        if source.field == "event":
            return [self._by_pld(source.name, rows).get_epsilon(delta)]
        assert source.field == "rdp" and source.method.startswith("stored charges added, then epsilon")
        return self._stated(rows, delta)

    def _counted(self, budget: dict[str, Any]) -> list[dict[str, Any]]:
        mine = [row for row in self.entries.values() if row["budget_id"] == budget["id"]]
        return [row for row in mine if row["state"] != "expired"]

    def _rows(self, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The budget that a source's entries belong to, and the entries."""
        which, _, key = name.partition(" of ")
        if key:
            budget = self.budgets[key]
            last = 0 if which == "none" else int(which.removeprefix("up to "))
            assert last or not self._counted(budget)
            return budget, [row for row in self._counted(budget) if row["id"] <= last]
        numbers = numbers_of(name)
        (budget,) = (b for b in self.budgets.values() if b["id"] == self.entries[min(numbers)]["budget_id"])
        counted = self._counted(budget)
        assert numbers == {row["id"] for row in counted}
        return budget, counted

    def _epsilon(self, rows: list[dict[str, Any]], delta: float | None) -> float:
        assert delta is not None
        if not rows:
            return 0.0
        vectors, distance = [json.loads(row["rdp"]) for row in rows], math.fsum(row["distance"] for row in rows)
        values = [math.fsum(column) for column in zip(*vectors, strict=True)]

        def left(epsilon: float) -> float:
            """Delta without what a distance in total variation takes of it on both sides."""
            return delta - (1 + math.exp(epsilon)) * distance

        if not distance:
            return epsilon_from_rdp(ORDERS, values, delta)
        highest = math.log(delta / distance - 1) - 1e-9
        return float(brentq(lambda e: epsilon_from_rdp(ORDERS, values, left(e)) - e, 0.0, highest, xtol=1e-13))

    def _stated(self, rows: list[dict[str, Any]], delta: float | None) -> list[float]:
        """The epsilon; the ledger's own search with a distance ends above it, by a part that is no more than that."""
        epsilon = self._epsilon(rows, delta)
        return [epsilon, epsilon * (1 + 1e-9)] if any(row["distance"] for row in rows) else [epsilon]

    def _at_order(self, budget: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[float, float, float]:
        """Order, divergence there, and what the order takes of epsilon with 0.99 of delta (Canonne et al. 2020)."""
        order, delta = budget["filter_order"], 0.99 * budget["delta"]
        value = math.fsum(json.loads(row["rdp"])[ORDERS.index(order)] for row in rows)
        return order, value, math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1)

    def _group(self, budget: dict[str, Any], rows: list[dict[str, Any]], size: int) -> float:
        """The point of the curve whose delta, grown by the lemma, is the cap's; by another search than the report's."""

        def log_grown(log_delta: float) -> float:
            epsilon = self._epsilon(rows, math.exp(log_delta))
            return log_delta + math.log(sum(math.exp(epsilon * step) for step in range(size)))

        wanted = math.log(budget["delta"])
        root = brentq(lambda x: log_grown(x) - wanted, wanted - 200, wanted, xtol=1e-12)
        return size * self._epsilon(rows, math.exp(root))

    def _held(self, budget: dict[str, Any], rows: list[dict[str, Any]]) -> float:
        if not rows:
            return 0.0
        _, value, taken = self._at_order(budget, rows)
        return value + taken

    def _used(self, budget: dict[str, Any], rows: list[dict[str, Any]]) -> float:
        if not rows:
            return 0.0
        _, value, taken = self._at_order(budget, rows)
        return value / (budget["epsilon"] - taken)

    def _by_pld(self, name: str, rows: list[dict[str, Any]]) -> PLDAccountant:
        if name not in self._pld:
            accountant = PLDAccountant(NeighboringRelation.REPLACE_SPECIAL, 1e-4)
            for row in rows:
                accountant.compose(from_json(json.loads(row["executed_event"] or row["event"])))
            self._pld[name] = accountant
        return self._pld[name]

    def _budget_value(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        row = self.budgets[source.name]
        mine, counted = (
            [entry for entry in self.entries.values() if entry["budget_id"] == row["id"]],
            self._counted(row),
        )
        states = [entry["state"] for entry in mine]
        if source.method == "cap less held":
            return [row["epsilon"] - self._held(row, counted)]
        if source.method == "not listed":
            return [0]
        known = {
            "cap_epsilon": row["epsilon"],
            "cap_delta": row["delta"],
            "budget": key_of(row),
            "used": self._used(row, counted),
            "spent_epsilon": self._epsilon(counted, row["delta"]),
            "overruns": sum(bool(entry["overrun"]) for entry in mine),
        }
        if source.field.startswith("entries."):
            return [states.count(source.field.removeprefix("entries."))]
        return [known[source.field] if source.field in known else row[source.field]]

    def _journal(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        if source.method:
            return self._of_caps(source)
        row = self.journal[int(source.name)]
        body = json.loads(row["body"])
        if source.field == "principal":
            return [body["principal"]]
        if source.field in ("run_id", "backend"):
            return [body[source.field]]
        if source.field == "public_key":
            return [row["key_id"]]  # the first key signs its own record
        if source.field in ("epsilon", "delta"):
            return [self._cap(row)[1][source.field]]
        if source.field == "budget":
            return [self._cap(row)[0]]
        return [row[source.field]]

    def _cap(self, row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The budget whose cap a journal record fixed, and the cap."""
        body = json.loads(row["body"])
        opened = body.get("opens") if row["kind"] == "policy" else body["budget"]
        if opened is not None:
            return key_of(opened), opened
        (budget,) = (b for b in self.budgets.values() if b["id"] == body["budget"])
        return key_of(budget), body["changes"]

    def _of_caps(self, source: Source) -> list[Any]:
        """What all caps of one budget prove: the largest epsilon and delta, or the last delta times its factor."""
        caps = [self._cap(self.journal[number]) for number in sorted(numbers_of(source.name))]
        ((name, *others), limits) = zip(*caps, strict=True)
        assert set(others) <= {name} and len(caps) == self.budgets[name]["cap_changes"] + 1
        factor = self.budgets[name]["delta_factor"]
        epsilon = max(cap["epsilon"] for cap in limits)
        delta = max(cap["delta"] for cap in limits) if factor == 1 else factor * limits[-1]["delta"]
        if source.method == "attack bound":
            return [attack([(epsilon, delta)], rate) for rate in (0.01, 0.1)]
        what, _, size = source.method.partition(" of a group of ")
        if size:
            return [grown(epsilon, delta, int(size))[what]]
        return [
            {
                ("epsilon", "largest"): epsilon,
                ("delta", f"last, times {factor}" if factor > 1 else "largest"): delta,
            }[source.field, source.method]
        ]

    def _registration(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        if source.field == "dataset":
            assert {row["dataset"] for row in self.registrations.values()} == {source.name}
            return [source.name]
        row = self.registrations[source.name]
        if source.field.startswith("splits."):
            _, split, what = source.field.split(".")
            return [json.loads(row["splits"])[split][("rows", "units").index(what)]]
        if source.field == "span":
            return [row["span_key"] or "none"]
        if source.field == "id_space" or source.field.startswith("reasons."):
            return [dig(json.loads(row["details"]), source.field)]
        return [row[source.field]]

    def _record(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        record = self.summaries[source.name]["record"]
        return [0] if source.method == "not readable" else [dig(record, source.field)]

    def _summary(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        summary = self.summaries[source.name]
        overall = next(part for part in summary["slices"] if part["name"] == "overall")
        return [dig(summary | {"overall": overall}, source.field)]

    def _workspace(self, source: Source, _report: DatasetReport, _delta: float | None) -> list[Any]:
        if source.field == "further runs":
            return list(self.further)
        if source.field.startswith("unrecorded "):
            return [UNRECORDED[source.name][source.field.removeprefix("unrecorded ")]]
        return ["run-9"] if source.field == "unreadable run" else [self.counts[source.field]]

    def _report(self, source: Source, report: DatasetReport, _delta: float | None) -> list[Any]:
        if source.field == "curve delta":
            return [point.delta.value for b in report.budgets for curve in b.curves for point in curve.points]
        return list(CHOSEN.get(source.field, [report.generated.quote]))


def grown(epsilon: float, delta: float, size: int) -> dict[str, float]:
    """The lemma on groups."""
    return {"epsilon": epsilon * size, "delta": delta * sum(math.exp(epsilon * step) for step in range(size))}


def span_of(row: Any) -> str:
    """Name of a registration."""
    return f"{row['dataset']} (span {row['span_key']})" if row["span_key"] else str(row["dataset"])


def key_of(row: Any) -> str:
    """Name of a budget."""
    return f"{row['dataset']}/{row['split']}/{row['unit']}" + (f"/span-{row['span_key']}" if row["span_key"] else "")


def numbers_of(text: str) -> set[int]:
    """ "1-3, 7" as numbers."""
    ends = [part.partition("-") for part in text.split(", ")]
    return {number for low, _, high in ends for number in range(int(low), int(high or low) + 1)}


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
