"""What a client of private prediction needs, none of it secret: architecture, columns, and the transform.

It holds no weight. `architecture.json` has the weights' sha256, which proves nothing but which weights are meant.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from privacy_pipeline.data.schema.features import FeaturePlan
from privacy_pipeline.encrypted.model import model_format
from privacy_pipeline.encrypted.model.model_format import ARCHITECTURE, PrivateModel
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import read_bounded

FOLDER = "published"
_FEATURES, _TRANSFORM = "features.json", "transform"
_LARGEST_FEATURES = 1 << 26  # bytes


@dataclass(frozen=True, kw_only=True)
class Published:
    """The public side of a model.

    Attributes:
        model: its architecture, without weights.
        digest: sha256 of the architecture file: which model, and which weights.
        features: the raw columns and their public domains.
        transform: folder of the tf.Transform output that makes the model's inputs of them.
    """

    model: PrivateModel
    digest: str
    features: FeaturePlan
    transform: Path


def publish(*, private_model: Path, features: FeaturePlan, transform_graph: Path, folder: Path) -> None:
    """Write the public side beside a converted model.

    Args:
        private_model: what `model_format.save` wrote.
        features: the columns of the dataset.
        transform_graph: the tf.Transform output that the model was trained behind.
        folder: where it goes; what an interrupted attempt left there is replaced.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copyfile(private_model / ARCHITECTURE, folder / ARCHITECTURE)
    (folder / _FEATURES).write_text(features.model_dump_json(indent=1) + "\n")
    shutil.copytree(transform_graph, folder / _TRANSFORM, copy_function=shutil.copyfile)


def copy(source: Path, folder: Path) -> None:
    """Put a model's public side where clients look for it, in place of an earlier one.

    Raises:
        BadInputError: `source` is none.
    """
    load(source)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part, copy_function=shutil.copyfile)
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)


def load(folder: Path) -> Published:
    """Read a model's public side.

    Raises:
        BadInputError: a part is missing or broken.
    """
    digest = model_format.digest_of(folder)
    model = model_format.load_architecture(folder, digest=digest)
    path = folder / _FEATURES
    try:
        features = FeaturePlan.model_validate_json(read_bounded(path, most=_LARGEST_FEATURES))
    except (OSError, ValidationError) as error:
        raise BadInputError(
            f"{path}: cannot be read ({type(error).__name__})", fix="publish the model again"
        ) from error
    if not (folder / _TRANSFORM / "transform_fn").is_dir():
        raise BadInputError(f"{folder / _TRANSFORM}: holds no transform", fix="publish the model again")
    return Published(model=model, digest=digest, features=features, transform=folder / _TRANSFORM)
