"""The files of a dataset that ExampleGen reads: a private copy of the digested files, and no others.

ExampleGen reads one span at a time, and its libraries match patterns in their own ways: they read hidden files, and
treat `[` in the name of a folder as a pattern. The copy has a folder for each split, and plain names.
"""

from __future__ import annotations

from pathlib import Path

from privacy_pipeline.config.models.dataset import DatasetConfig
from privacy_pipeline.data.files import ALL
from privacy_pipeline.files.literal_paths import literal


def as_copied(dataset: DatasetConfig, *, folder: Path) -> DatasetConfig:
    """Return the dataset as one without spans, whose files are those of a private copy.

    Args:
        dataset: the config's section.
        folder: the folder of the copy (`PrivateCopy.folder`).
    """
    splits = [ALL] if isinstance(dataset.input, str) else [str(split) for split in dataset.input]
    patterns = {split: f"{split}/*" for split in splits}
    given: object = patterns[ALL] if isinstance(dataset.input, str) else patterns
    return dataset.model_copy(update={"path": literal(folder), "input": given, "span": "latest", "version": "latest"})
