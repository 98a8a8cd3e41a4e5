"""Small datasets for tests."""

from __future__ import annotations

from pathlib import Path

from privacy_pipeline.config.models.dataset import DatasetConfig


def dataset(path: Path, **changes: object) -> DatasetConfig:
    """A dataset section with sensible values."""
    values: dict[str, object] = {
        "name": "d",
        "path": path,
        "schema": "s.pbtxt",
        "label": "y",
        "positive_class": "1",
        **changes,
    }
    return DatasetConfig.model_validate(values)


def put(path: Path, text: str | bytes = "x,y\n1,0\n") -> Path:
    """Writes a file and the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path
