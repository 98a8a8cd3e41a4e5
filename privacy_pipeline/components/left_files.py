"""Whether the files of an artifact are still on the disk, as far as names show. No TFX in here."""

from __future__ import annotations

import json
import re
from pathlib import Path

MODEL, EXAMPLES = "Model", "Examples"  # as TFX names the types
SPLITS = "split_names"  # of examples: a property, a JSON list
_SERVING = "Format-Serving/saved_model.pb"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})")


def are_left(kind: str, folder: Path, *, splits: str = "") -> bool:
    """Whether what an artifact names is there: its folder, of a model the SavedModel, of examples every shard.

    Args:
        kind: name of the artifact's type.
        folder: that its URI names.
        splits: `split_names` of examples; "" for other artifacts.
    """
    if kind == MODEL:
        return (folder / _SERVING).is_file()
    if kind == EXAMPLES and splits:
        return all(_is_whole(folder / f"Split-{name}") for name in json.loads(splits))
    return folder.exists()


def _is_whole(split: Path) -> bool:
    """Whether each of the shards is there that the names of the others count."""
    if not split.is_dir():
        return False
    shards = [found for path in split.iterdir() if (found := _SHARD.search(path.name))]
    if not shards:
        return any(split.iterdir())
    return len({found[1] for found in shards}) == max(int(found[2]) for found in shards)
