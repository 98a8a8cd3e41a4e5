"""Remove from a workspace everything that holds rows, or values of rows, of the chosen runs.

A pruned run keeps its state, its privacy record, the metrics over a whole split, audits on made-up examples and the
report of its budget. The ledger is not touched: spent budget stays spent. In the pipeline folders of the chosen runs,
everything goes that no other run uses, which includes what killed runs left. A run is marked first and never unmarked:
every later call chooses a run whose removal was interrupted.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from privacy_pipeline.dp import attempts
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.pruning import pruned_experiments, pruned_files
from privacy_pipeline.pipelines.pruning.pruned_metadata import MetadataOfRuns, Used
from privacy_pipeline.pipelines.pruning.pruning_plan import Chosen, Criteria, Plan
from privacy_pipeline.pipelines.workspace.run_state import PRUNING, RunSpec, RunState
from privacy_pipeline.pipelines.workspace.workspace import RunFolder, Workspace, find_run, held_alone, run_folders

_RECORDS = "privacy_record"  # the trainer's output that stays


@dataclass(frozen=True, kw_only=True)
class _Run:
    folder: RunFolder
    state: RunState
    spec: RunSpec


class Pruning:
    """What is to be removed from a workspace, as it is now.

    Args:
        root: the workspace.
        criteria: which runs.

    Raises:
        BadInputError: no run is named, a named run does not exist, or a chosen run or ML Metadata cannot be read.
    """

    def __init__(self, root: Path, criteria: Criteria) -> None:
        self.root, self.criteria = root.absolute(), criteria
        self._left: list[str] = []
        known = list(self._readable())
        of_experiments = pruned_experiments.names(self.root)
        named = {find_run(self.root, name).run_id for name in criteria.runs if name not in of_experiments}
        self._chosen = {run.folder.run_id: run for run in known if self._is_meant(run, named)}
        self._living = [run for run in known if run.folder.run_id not in self._chosen and not _is_done(run.state)]
        self._pipelines = list(dict.fromkeys(run.spec.config.pipeline for run in self._chosen.values()))
        self._experiments = pruned_experiments.meant(
            self.root, names=criteria.runs, dataset=criteria.dataset, older_than=criteria.older_than
        )
        self._require_known(known)
        self._stores = self._opened()
        self._used: dict[str, Used] = {}
        for store in self._stores.values():
            self._used |= store.runs()
        self._living_used = self._used_by_others(known)

    def _require_known(self, known: Sequence[_Run]) -> None:
        """Refuse the name of a dataset that no run read: a typing error must not look like a removal."""
        wanted = self.criteria.dataset
        read = {run.spec.config.dataset.name for run in known} | pruned_experiments.datasets(self.root)
        if wanted is not None and wanted not in read:
            raise BadInputError(
                f"no run in {self.root} is on dataset {wanted!r}",
                fix=f"one of {', '.join(sorted(read))}" if read else "name the workspace: --workspace DIR",
            )

    def _readable(self) -> Iterator[_Run]:
        for folder in run_folders(self.root):
            try:
                state, spec = folder.read_state(), folder.read_spec()
            except BadInputError as error:
                if folder.run_id in self.criteria.runs:
                    raise
                self._left.append(f"run {folder.run_id} cannot be read, and was not chosen: {error.message}")
                continue
            here = spec.config.model_copy(update={"workspace": self.root})  # wherever the command is typed
            yield _Run(folder=folder, state=state, spec=spec.model_copy(update={"config": here}))

    def _is_meant(self, run: _Run, named: Collection[str]) -> bool:
        wanted, state = self.criteria, run.state
        if state.pruned == PRUNING:
            return True
        if wanted.runs and run.folder.run_id not in named:
            return False
        if wanted.dataset is not None and run.spec.config.dataset.name != wanted.dataset:
            return False
        if wanted.older_than is not None and _days_since(state.ended or state.started) < wanted.older_than:
            return False
        return bool(wanted.runs) or not _is_done(state)

    def _opened(self) -> dict[str, MetadataOfRuns]:
        """Return the stores of the chosen runs and of other runs of their pipelines; mostly there is one store."""
        found: dict[str, MetadataOfRuns] = {}
        for run in [*self._chosen.values(), *self._beside(self._pipelines)]:
            key = run.spec.config.metadata.model_dump_json()
            if key not in found:
                found[key] = MetadataOfRuns(run.spec.config)
            if run.folder.run_id not in self._chosen and not found[key].is_there:
                raise BadInputError(
                    f"ML Metadata of {self.root} is gone, so the files that run {run.folder.run_id} uses are unknown",
                    fix="restore it, or choose all runs of the pipeline",
                )
        return found

    def _beside(self, pipelines: Collection[str]) -> list[_Run]:
        """Return the remaining runs of pipelines."""
        return [run for run in self._living if run.spec.config.pipeline in pipelines]

    def _used_by_others(self, known: Sequence[_Run]) -> dict[str, Used]:
        """Return what the remaining runs use, also those that cannot be read.

        A run that was served as a whole uses what the earlier run made.
        """
        unread = {folder.run_id for folder in run_folders(self.root)} - {run.folder.run_id for run in known}
        pairs = [(name, name) for name in sorted(unread)]
        for run in self._living:
            name = run.folder.run_id
            pairs += [(name, name), (name, run.state.cached_from or name)]
        found: dict[str, Used] = {}
        for name, source in pairs:
            if source in self._used:
                found[name] = found[name] | self._used[source] if name in found else self._used[source]
        return found

    def plan(self) -> Plan:
        """Return what would be removed and what would stay; remove nothing."""
        paths: list[Path] = []
        for run in self._chosen.values():
            paths += pruned_files.of_run(run.folder)
        paths += [*pruned_files.never_begun(self.root), *pruned_files.copies_left(self.root)]
        for pipeline in self._pipelines:
            folder = self.root / "pipelines" / pipeline
            paths += pruned_files.all_but(folder, self._kept(folder, pipeline))
        paths += self._pushed()
        for experiment in self._experiments:
            paths += pruned_experiments.files(experiment)
        runs = [
            Chosen(
                run_id=run.folder.run_id,
                pipeline=run.spec.config.pipeline,
                dataset=run.spec.config.dataset.name,
                status=run.state.status,
            )
            for run in self._chosen.values()
        ]
        runs += [Chosen(**pruned_experiments.facts(one)) for one in self._experiments]
        return Plan(
            runs=tuple(runs),
            paths=tuple(paths),
            size=sum(map(pruned_files.size_of, paths)),
            shared=self._shared(),
            left=tuple(dict.fromkeys(self._left)),
        )

    def _kept(self, folder: Path, pipeline: str) -> set[Path]:
        """Return what stays in a pipeline's folder: the files that remaining runs use, and records."""
        beside = self._beside([pipeline])
        kept = set(folder.glob(f"*/{_RECORDS}"))
        for one in self._living_used.values():
            kept |= {path for path in one.files if path.is_relative_to(folder)}
            kept |= {found for number in one.executions for found in folder.glob(f"*/.system/*/{number}")}
        kept |= {folder / ".schemas" / f"{run.spec.schema_digest}.pbtxt" for run in beside}
        kept |= attempts.of_runs(folder / attempts.ROOT, {run.folder.run_id for run in beside})
        return kept | ({folder / ".spans"} if beside else set())

    def _shared(self) -> dict[Path, tuple[str, ...]]:
        used = self._living_used
        made = {path for name in self._chosen if name in self._used for path in self._used[name].files}
        users = {path: tuple(name for name, one in used.items() if path in one.files) for path in sorted(made)}
        return {path: names for path, names in users.items() if names and path.exists()}

    def _pushed(self) -> list[Path]:
        living = {version for one in self._living_used.values() for version in one.pushed}
        found: list[Path] = []
        for name, run in self._chosen.items():
            folder = Workspace(run.spec.config).push_directory
            versions = sorted(self._used[name].pushed - living) if name in self._used else []
            here = [folder / version for version in versions if (folder / version).is_dir()]
            if self.criteria.keep_pushed or not folder.is_relative_to(self.root):
                self._left += [f"pushed model of run {name}, which may hold values of rows: {path}" for path in here]
                continue
            found += here
            found += sorted(folder.glob(".part-*"))  # left by a killed push
        return list(dict.fromkeys(found))

    def remove(self) -> Plan:
        """Remove what is planned, and mark the runs.

        Returns:
            What was removed.

        Raises:
            OSError, PipelineError: a file cannot be removed. The same call again completes the removal.
        """
        found = self.plan()
        for run in self._chosen.values():
            self._mark(run, PRUNING)
        for path in found.paths:
            _remove(path)
        there = {folder.run_id for folder in run_folders(self.root)}
        gone = self._chosen.keys() | {name for name, used in self._used.items() if used.is_here and name not in there}
        for store in self._stores.values():
            ours = [name for name in gone if name in self._chosen or self._used[name].pipeline in self._pipelines]
            store.forget(ours, living=self._living_used)
            store.compact()
        for run in self._chosen.values():
            pruned_files.scrub(run.folder, run.state, run.spec)
            self._mark(run, datetime.date.today().isoformat())
        return found

    def _mark(self, run: _Run, pruned: str) -> None:
        run.state.pruned = pruned
        run.folder.write_state(run.state)


def plan(root: Path, criteria: Criteria) -> Plan:
    """Return what would be removed; remove nothing.

    Raises:
        BadInputError: see `Pruning`; or no criterion is given.
        PipelineError: a run is in progress.
    """
    _require_criterion(criteria)
    with _alone(root):
        return Pruning(root, criteria).plan()


def remove(root: Path, criteria: Criteria) -> Plan:
    """Remove what is chosen, while no run can be executed in the workspace.

    Raises:
        BadInputError, PipelineError: see `plan`.
        OSError: a file cannot be removed. The same call again completes the removal.
    """
    _require_criterion(criteria)
    with _alone(root):
        return Pruning(root, criteria).remove()


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    if not root.is_dir():
        raise BadInputError(f"{root}: there is no such workspace", fix="name it: --workspace DIR")
    with contextlib.ExitStack() as held:
        held.enter_context(pruned_experiments.held_idle(root))
        if (root / "runs").is_dir():
            held.enter_context(held_alone(root))
        yield


def _require_criterion(criteria: Criteria) -> None:
    if not criteria.runs and criteria.dataset is None and criteria.older_than is None:
        raise BadInputError("no run is chosen", fix="--run RUN, --dataset NAME or --older-than DAYS")


def _is_done(state: RunState) -> bool:
    return state.pruned not in ("", PRUNING)


def _days_since(moment: str) -> float:
    at, utc = datetime.datetime.fromisoformat(moment), datetime.timezone.utc
    return (datetime.datetime.now(utc) - (at if at.tzinfo else at.replace(tzinfo=utc))).total_seconds() / 86_400


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
