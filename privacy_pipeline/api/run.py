"""Run a pipeline, or continue a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from privacy_pipeline.api.configs import Given, file_of, load_config
from privacy_pipeline.api.outcome import Run
from privacy_pipeline.files.file_rights import for_this_user
from privacy_pipeline.pipelines.execution import runs
from privacy_pipeline.pipelines.preflight import spending
from privacy_pipeline.pipelines.workspace.workspace import RunFolder, find_run

if TYPE_CHECKING:
    from privacy_pipeline.pipelines.execution.execute import OnEvent

OnStart = Callable[[RunFolder], None]


def run(
    config: Given,
    *,
    overrides: Sequence[str] = (),
    from_node: str | None = None,
    to_node: str | None = None,
    cache: bool = True,
) -> Run:
    """Run a pipeline in processes of its own, and wait for it.

    >>> import privacy_pipeline as pp
    >>> done = pp.run("config.yaml")
    >>> done.status, done.record.training_guarantee
    ('done', 'dp')

    Args:
        config: path of a YAML file, a mapping or a config; see `load_config`.
        overrides: `section.key=value` each.
        from_node: first node of a partial run.
        to_node: last node of a partial run.
        cache: whether results of earlier runs are used again; a DP training without them spends budget again.

    Returns:
        The run, also where PrivacyGate did not bless its model.

    Raises:
        BadInputError: config, schema, files or rows are not usable; nothing was started.
        BudgetRefusedError: the ledger would refuse the run; nothing was started.
        RunFailedError: a node failed.
    """
    done = execute(config, overrides=overrides, from_node=from_node, to_node=to_node, cache=cache)
    done.require_done()
    return done


def execute(
    config: Given,
    *,
    path: Path | None = None,
    overrides: Sequence[str] = (),
    from_node: str | None = None,
    to_node: str | None = None,
    cache: bool = True,
    on_start: OnStart = lambda _: None,
    on_event: OnEvent = lambda _, __: None,
    note: Callable[[str], None] = lambda _: None,
) -> Run:
    """Run a pipeline as `run` does; a run that failed is returned too.

    Args:
        config, overrides, from_node, to_node, cache: as for `run`.
        path: file of the config, for messages.
        on_start: called with the run's folder once the budget was checked.
        on_event: called after each event of the worker.
        note: called with each of the notes as it is found.

    Raises:
        BadInputError, BudgetRefusedError: as for `run`.
    """
    notes: list[str] = []

    def tell(what: str) -> None:
        notes.append(what)
        note(what)

    with for_this_user():
        folder, state = runs.start(
            config=load_config(config, overrides=[*overrides, *([] if cache else ["cache=false"])]),
            config_path=path or file_of(config),
            from_nodes=[from_node] if from_node else [],
            to_nodes=[to_node] if to_node else [],
            on_start=on_start,
            on_event=on_event,
            note=tell,
        )
    return Run(folder=folder, state=state, summary=folder.read_summary(), notes=tuple(notes))


def resume(
    name: str,
    *,
    workspace: Path,
    on_start: Callable[[RunFolder, Sequence[str]], None] = lambda _, __: None,
    on_event: OnEvent = lambda _, __: None,
) -> Run:
    """Continue a run that failed or was killed.

    Args:
        name: run id, or a prefix of it.
        workspace: its folder.
        on_start: called with the run's folder and the nodes that start again and are charged again.
        on_event: called after each event of the worker.

    Raises:
        BadInputError: the run is finished, or its data or code changed since it started.
        BudgetRefusedError: what would be charged again does not fit the budget.
    """
    folder = find_run(workspace.absolute(), name)
    charged = spending.charged_again(folder)
    with for_this_user():
        state = runs.resume(folder=folder, on_start=lambda found: on_start(found, charged), on_event=on_event)
    return Run(folder=folder, state=state, summary=folder.read_summary())
