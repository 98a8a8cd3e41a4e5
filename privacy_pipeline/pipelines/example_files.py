"""The files of a dataset as ExampleGen is given them: the ones that were registered, and no others.

ExampleGen reads one span at a time, and its libraries match patterns in their own ways: they read hidden files, and
take `[` in the name of a folder for a pattern. Where that would be another set of files than `data.files` resolves,
ExampleGen gets a folder of links to the right ones.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

from privacy_pipeline.config.models import DatasetConfig
from privacy_pipeline.data.files import ResolvedSource, resolve
from privacy_pipeline.errors import PipelineError
from privacy_pipeline.literal_paths import literal
from privacy_pipeline.spans import Span

_LONGEST = 100  # characters that a link keeps of its file's name
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]")


def as_read(dataset: DatasetConfig, *, span: Span, version: int | None, below: Path) -> DatasetConfig:
    """The dataset with a folder and patterns that ExampleGen reads as we do.

    Args:
        dataset: the config's section.
        span: what is read of it.
        version: of that span; None where there is none, or several spans.
        below: where a folder of links is made, if one is needed.

    Raises:
        BadInputError: see `files.resolve`.
        PipelineError: something else lies in the folder of links.
    """
    chosen = {"span": span, "version": version}
    source = resolve(dataset=dataset.model_copy(update={k: v for k, v in chosen.items() if v is not None}))
    if source.parts or not _read_alike(dataset, source):
        return _one_folder(dataset, source, literal(below))
    return dataset.model_copy(update={"path": literal(dataset.path)})


def _read_alike(dataset: DatasetConfig, source: ResolvedSource) -> bool:
    """Whether Beam, which reads, and TensorFlow, which looks for headers and changes, match the files of the source."""
    from apache_beam.io.filesystems import FileSystems
    from tfx.dsl.io import fileio

    folder = literal(dataset.path)
    for split, pattern in source.patterns.items():
        files = {folder / file.relative_to(dataset.path) for file in source.files[split]}
        found = FileSystems.match([str(folder / pattern)])[0].metadata_list
        if {Path(one.path) for one in found} != files or {
            Path(one) for one in fileio.glob(str(folder / pattern))
        } != files:
            return False
    return True


def _one_folder(dataset: DatasetConfig, source: ResolvedSource, below: Path) -> DatasetConfig:
    """The dataset as one without spans, whose files are links to those of the source.

    The same files give the same folder, so that TFX's cache knows them again.
    """
    links = _links(source)
    name = hashlib.sha256("\n".join(f"{link}\0{file}" for link, file in links.items()).encode()).hexdigest()[:32]
    folder = below / name
    for link, file in links.items():
        _link(folder / link, file)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    if found != set(links):
        raise PipelineError(
            f"{folder}: holds {sorted(found - set(links))[0]}, which is not of the files that this run reads",
            fix="remove the folder; it is made again",
        )
    together = {split: f"{split}/*" for split in source.files}
    patterns: object = next(iter(together.values())) if isinstance(dataset.input, str) else together
    return dataset.model_copy(update={"path": folder, "input": patterns, "span": "latest", "version": "latest"})


def _links(source: ResolvedSource) -> dict[str, Path]:
    """Where each file comes to lie below the folder, in the order of the spans."""
    parts = {f"{span}-": part for span, part in source.parts.items()} or {"": source}
    return {
        f"{split}/{head}{number:05d}-{_NOT_PLAIN.sub('_', file.name)[-_LONGEST:]}": file.absolute()
        for head, part in parts.items()
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
