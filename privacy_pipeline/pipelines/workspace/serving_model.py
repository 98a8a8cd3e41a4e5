"""Find the model that a command names: by run, by pushed model, or by a model's published side."""

from __future__ import annotations

from pathlib import Path

from privacy_pipeline.backends.encrypted import PRIVATE_MODEL, PUBLISHED
from privacy_pipeline.encrypted.model.model_format import ARCHITECTURE
from privacy_pipeline.encrypted.serving.hosting import ServedModel
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.pipelines.workspace.workspace import find_run


def find_model(name: str, *, workspace: Path) -> ServedModel:
    """Return the model of a blessed run, of a folder of pushed versions (the newest), or of one model's folder.

    Args:
        name: a run id, its prefix, a pipeline's name, or a folder; also a folder `published`, which has no weights.
        workspace: where runs are.

    Raises:
        BadInputError: there is no model, it is not blessed, or it was not made for private prediction.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _of_run(name, workspace)
    if (folder / ARCHITECTURE).is_file():
        return ServedModel(published=folder, private_model=None)
    versions = sorted((p for p in folder.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    if versions:
        folder = versions[-1]
    if not (folder / PUBLISHED).is_dir():
        raise BadInputError(
            f"{folder}: is not a model for private prediction",
            fix="train one with `training.backend: encrypted` (configs/adult_encrypted.yaml)",
        )
    return ServedModel(published=folder / PUBLISHED, private_model=folder / PRIVATE_MODEL)


def _of_run(name: str, workspace: Path) -> Path:
    found = find_run(workspace.absolute(), name)
    summary = found.read_summary()
    if summary is None or not summary.blessed:
        raise BadInputError(
            f"run {found.run_id} has no blessed model", fix=f"privacy-pipeline show {found.run_id} prints why"
        )
    if told := found.read_state().was_pruned:
        raise BadInputError(told, fix="run it again, or name the folder of a model")
    return Path(summary.model_uri)
