"""Builds a user's model, and traces a user's preprocessing, where there is no data; takes over what crossed.

Nothing of a user's is imported in this process. What the build answers is looked at by `configs` and `replay` before
TensorFlow makes anything of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_pipeline.backends.isolated import process
from privacy_pipeline.backends.isolated.visible import Private, Visible, visible
from privacy_pipeline.backends.models import user_code
from privacy_pipeline.config.models.model import ModelSection
from privacy_pipeline.config.models.pipeline import PipelineConfig
from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from privacy_pipeline.backends.models.tabular import ModelContext

_CHILD = "privacy_pipeline.backends.isolated.child"
_FIX = (
    "correct the module; it runs where there is no data and no network: public files that it reads go under model.files"
)
_LONGEST = 1000  # characters of what a build prints


@dataclass
class _Kept:
    """What crossed of a model, and whether it was trained since."""

    header: dict[str, Any]
    weights: list[Any]
    trained: bool = False


_kept: dict[str, _Kept] = {}  # the last one


def require_possible(config: PipelineConfig) -> None:
    """Refuse a config whose model cannot be built apart from the data, before anything is run for it.

    Raises:
        NoNamespacesError: the kernel gives no namespaces.
        BadInputError: what the build would see is the dataset's, or is not there.
    """
    if config.model.is_built_apart:
        visible(config.model, Private.of(config))
        process.run("privacy_pipeline.backends.isolated.nothing", task={}, files={}, folders=())


def model(config: PipelineConfig, context: ModelContext, *, trained: bool) -> Any:
    """Return the Keras model of `build_model`: built-in layers, and graphs in the place of all others.

    Args:
        config: the whole config.
        context: what `build_model` gets. It holds public facts only.
        trained: whether it is trained after; a model that was examined before is trained once, then it is built again.

    Raises:
        NoNamespacesError: the kernel gives no namespaces.
        BadInputError: the module cannot be built, or part of the model cannot cross.
    """
    from privacy_pipeline.backends.isolated.crossing import configs

    section, seed = config.model, config.training.seed
    seen = visible(section, Private.of(config))
    inputs = {name: {"shape": list(spec.shape), "dtype": spec.dtype} for name, spec in sorted(context.inputs.items())}
    given = {
        "features": context.features.model_dump_json(),
        "inputs": inputs,
        "hidden_units": list(context.hidden_units),
        "dropout": context.dropout,
        "params": dict(context.params),
    }
    task = {**_task("model", section, seen), "context": given, "seed": seed}
    key = _key(task, seen)
    if key not in _kept or (trained and _kept[key].trained):
        header, weights = _answer(task, seen, use=section.use)
        _kept.clear()
        _kept[key] = _Kept(header, weights)
    kept = _kept[key]
    kept.trained = kept.trained or trained
    return configs.model_of(kept.header.get("config"), kept.weights, seed=seed)


def preprocessing(
    section: ModelSection, private: Private, *, custom_config: Mapping[str, str], features: Mapping[str, Any]
) -> str:
    """Return the graph of `preprocessing_fn` as JSON for `components.transform.crossed`.

    Args:
        section: names the module.
        private: what it must not see.
        custom_config: what the function gets beside its inputs. It holds public facts only.
        features: by column its dtype, and its shape or None where a row may lack a value.

    Raises:
        NoNamespacesError: the kernel gives no namespaces.
        BadInputError: the function fails, analyzes the data, or makes what is not dense.
    """
    seen = visible(section, private)
    task = {
        **_task("preprocessing", section, seen),
        "custom_config": dict(custom_config),
        "features": dict(features),
    }
    header, _ = _answer(task, seen, use=section.use)
    return json.dumps(header, sort_keys=True)


def _task(kind: str, section: ModelSection, seen: Visible) -> dict[str, Any]:
    return {
        "kind": kind,
        "use": section.use,
        "defined": sorted(user_code.defined_by(section.use)),
        "sources": sorted(str(path) for path in seen.files if path.suffix == ".py"),
    }


def _key(task: Mapping[str, Any], seen: Visible) -> str:
    total = hashlib.sha256(json.dumps(task, sort_keys=True).encode())
    for path, content in sorted(seen.files.items()):
        total.update(f"\0{path}\0{hashlib.sha256(content).hexdigest()}".encode())
    return total.hexdigest()


def _answer(task: Mapping[str, Any], seen: Visible, *, use: str) -> tuple[dict[str, Any], list[Any]]:
    from privacy_pipeline.backends.isolated import frames

    answer = process.run(_CHILD, task=task, files=seen.files, folders=[Path.cwd(), *seen.folders])
    header, arrays = frames.unpack(answer)
    if "refused" in header:
        message, fix = _texts(header["refused"])
        raise BadInputError(message, fix=fix)
    if "raised" in header:
        said, where = _texts(header["raised"])
        raise BadInputError(f"model: '{use}' fails{f' in {where}' if where else ''}: {said}", fix=_FIX)
    return header, arrays


def _texts(value: Any) -> tuple[str, str]:
    """Return two lines that a user's code may have written."""
    first, second, *_ = [*value, "", ""] if isinstance(value, list) else (str(value), "")
    found = [process.printable(str(one)).replace("\n", " ")[:_LONGEST] for one in (first, second)]
    return found[0], found[1]
