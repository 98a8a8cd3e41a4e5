"""Several spans of a dataset in one folder of links, for ExampleGen, which reads one span at a time."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

from privacy_pipeline.config.models import DatasetConfig
from privacy_pipeline.data.files import ResolvedSource, resolve
from privacy_pipeline.errors import PipelineError


def one_folder(dataset: DatasetConfig, *, below: Path) -> DatasetConfig:
    """The dataset as one without spans, whose files are links to those of all its spans.

    The same files give the same folder, so that TFX's cache knows them again.

    Args:
        dataset: the config's section; it names several spans.
        below: where the folder is made.

    Raises:
        BadInputError: see `files.resolve`.
        PipelineError: something else lies in the folder.
    """
    source = resolve(dataset=dataset)
    links = _links(source)
    name = hashlib.sha256("\n".join(f"{link}\0{file}" for link, file in links.items()).encode()).hexdigest()[:32]
    folder = below.absolute() / name
    for link, file in links.items():
        _link(folder / link, file)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    if found != set(links):
        raise PipelineError(
            f"{folder}: holds {sorted(found - set(links))[0]}, which is of none of the spans",
            fix="remove the folder; it is made again",
        )
    together = {split: f"{split}/*" for split in source.files}
    patterns: object = next(iter(together.values())) if isinstance(dataset.input, str) else together
    return dataset.model_copy(update={"path": folder, "input": patterns, "span": "latest", "version": "latest"})


def _links(source: ResolvedSource) -> dict[str, Path]:
    """Where each file comes to lie below the folder, in the order of the spans."""
    return {
        f"{split}/{span}-{number:05d}-{file.name}": file.absolute()
        for span, part in source.parts.items()
        for split, files in part.files.items()
        for number, file in enumerate(files)
    }


def _link(link: Path, file: Path) -> None:
    """Makes one link in a single step: another process may be making the same."""
    if link.is_symlink() and link.readlink() == file:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    part = link.parent.parent.with_name(f".{secrets.token_hex(8)}")
    part.symlink_to(file)
    os.replace(part, link)
