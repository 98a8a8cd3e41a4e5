"""How a run read the data beside its training, and which of that the guarantee covers."""

from __future__ import annotations

import hashlib
import json

from federated.silos.statement import silo_accesses
from privacy_pipeline.accounting.record import DataAccess
from privacy_pipeline.backends.base import Executed
from privacy_pipeline.config.models.dataset import KeyedUnit
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.releases.statistics import DpStatistics
from privacy_pipeline.reports.record.properties import shown
from privacy_pipeline.reports.record.run_facts import RunFacts

STATISTICS_ACCESS = "DP statistics"
CODE_ACCESS = "model code"
BUILT_APART = "built without access to data"
NOT_CHECKED = "model code: not checked"
EVALUATION_ACCESS = "evaluation metrics, blessing and slices"
TIMES = DataAccess(
    what="times",
    covered=False,
    detail="how long nodes and steps take depends on the data and is not hidden; times stay in the run's folder, ML "
    "Metadata, logs and the ledger, and are left out of what `budget publish` and `budget report` write",
)
_ENCRYPTED_EVALUATION = (
    DataAccess(
        what="evaluation of private predictions",
        covered=False,
        detail="accuracy and agreement are exact, on the eval split; anyone who can read the workspace sees them",
    ),
)


def data_accesses(config: PipelineConfig, facts: RunFacts, executed: Executed, private: bool) -> list[DataAccess]:
    """Return each use of the data, covered by the guarantee or not; `private` is whether the training has one."""
    withheld = [
        DataAccess(
            what="exact readings of the training",
            covered=False,
            detail=f"withheld from everyone: {', '.join(executed.withheld)}; how long a step takes is not hidden",
        )
    ]
    return [
        DataAccess(
            what="training",
            covered=private,
            detail="the final model and everything computed from it"
            if private
            else "no noise was added, or a fixed seed voids it: the model may reveal single rows",
        ),
        *_code_accesses(config),
        *_schema_accesses(config, facts),
        DataAccess(
            what="statistics and anomalies",
            covered=False,
            detail="exact, on both splits; anyone who can read the workspace sees them",
        ),
        DataAccess(
            what=EVALUATION_ACCESS,
            covered=False,
            detail="exact, on the eval split; anyone who can read the workspace sees them" + shared_users(config),
        ),
        *_federation(config),
        *executed.accesses,
        *([TIMES] if private else []),
        *(withheld if executed.withheld else []),
        *(_ENCRYPTED_EVALUATION if config.training.encrypted else []),
    ]


def _code_accesses(config: PipelineConfig) -> list[DataAccess]:
    """Return how a user's code was run, which may write what it sees into a model."""
    section = config.model
    if section.runs_beside_data:
        return [
            DataAccess(
                what=CODE_ACCESS,
                covered=False,
                detail=f"{NOT_CHECKED}: `{section.use}` ran beside the data, as `trust: reviewed` allows; what it read "
                "may be in the model",
            )
        ]
    if not section.is_built_apart:
        return []
    files = f"; public files by the config's word: {', '.join(map(str, section.files))}" if section.files else ""
    return [
        DataAccess(
            what=CODE_ACCESS,
            covered=True,
            detail=f"{BUILT_APART}: `{section.use}` ran in a process without data and network; built-in layers, graphs "
            f"and initial weights crossed. What its source itself states is its author's{files}",
        )
    ]


def _schema_accesses(config: PipelineConfig, facts: RunFacts) -> list[DataAccess]:
    """Return where ranges, domains and preprocessing come from."""
    schema, public, released = config.dataset.schema_path, facts.schema_is_public, facts.statistics
    fixed = not config.model.runs_beside_data and public
    source = "the schema's public ranges and domains" + (", and what was released with noise" if released else "")
    left_out = f", but for what it leaves out (see {STATISTICS_ACCESS})" if released else ""
    stated = f"public, from {schema}: reads no private data{left_out}"
    found = [
        DataAccess(
            what="schema and vocabularies",
            covered=public,
            detail=stated if public else "read off the private data",
        ),
        DataAccess(
            what="preprocessing",
            covered=fixed,
            detail=f"fixed by {source}; no analyzer reads the data{_traced(config)}"
            if fixed
            else "not checked: your preprocessing_fn, or a schema that is not public, may use the data",
        ),
    ]
    if released is not None:
        found.append(DataAccess(what=STATISTICS_ACCESS, covered=True, detail=_released(released)))
    return found


def _traced(config: PipelineConfig) -> str:
    return f"; what is `{config.model.use}`'s own is a graph {BUILT_APART}" if config.model.is_built_apart else ""


def _released(statistics: DpStatistics) -> str:
    event = json.dumps(statistics.event, sort_keys=True)
    return (
        f"noisy ranges and vocabularies of {', '.join([*statistics.ranges, *statistics.vocabularies])} over the train "
        f"split, epsilon {shown(statistics.epsilon)} at delta {statistics.delta:.0e} (RDP), unit {statistics.unit}, "
        f"{statistics.relation}, at most {statistics.contribution_bound} row(s) a unit; charged to budget "
        f"{statistics.budget}, ledger entry {statistics.ledger_entry}, event SHA-256 "
        f"{hashlib.sha256(event.encode()).hexdigest()[:16]}; the guarantee of this record counts it"
    )


def _federation(config: PipelineConfig) -> list[DataAccess]:
    """Return what a simulated federation does not protect, and who its clients are."""
    section = config.training.federated
    if section is None:
        return []
    if section.silo_privacy is not None:
        return silo_accesses(section.silo_privacy.column)
    who = "real: the key names them; several keys of one person would be several clients"
    if section.clients is not None:
        rule = ", ".join(f"{name} {value}" for name, value in section.clients.model_dump(exclude_none=True).items())
        who = f"synthetic, no real persons or sites; rows were dealt out by: {rule}"
    return [
        DataAccess(what="clients", covered=False, detail=f"{who}; their number is public"),
        DataAccess(
            what="updates of single clients",
            covered=False,
            detail="the federation is simulated in one process, which sees each update before it is clipped",
        ),
    ]


def shared_users(config: PipelineConfig) -> str:
    """Return what is known of users with rows in both splits: a hash split keeps all rows of a user together."""
    unit = config.dataset.privacy_unit
    if not isinstance(unit, KeyedUnit):
        return ""
    if config.dataset.hash_split is not None:
        return f"; split by the hash of `{unit.key}`, so that no value of it is on both sides"
    return f"; not checked: who shares a `{unit.key}` with a trained row may be in it, and is not protected there"
