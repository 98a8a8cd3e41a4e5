"""Attack a run's model by membership inference on the run's own splits, and keep the reading.

This reads the training split again and computes exact numbers from it, so no guarantee covers its output: the reading
stays in the run's folder and goes into no record, report or metric. On registered data it is checked against the
policy and journalled, like a run without a guarantee.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy_pipeline.data.counting.row_digests import RowHasher
from privacy_pipeline.data.reading import tfrecord
from privacy_pipeline.data.schema.features import LABEL_FEATURE
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.files.literal_paths import literal
from privacy_pipeline.pipelines.preflight import admission
from privacy_pipeline.pipelines.reporting.readings import ATTACKS
from privacy_pipeline.pipelines.workspace.metadata import connection_config
from privacy_pipeline.pipelines.workspace.stored_text import store_of
from privacy_pipeline.pipelines.workspace.workspace import RunFolder
from privacy_pipeline.tasks import registry as tasks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from privacy_pipeline.data.schema.features import FeaturePlan
    from privacy_pipeline.dp.attacks.membership import AttackReading

_BATCH = 4096
_SMALLEST_SLICE = 50  # of members and of others; with fewer, an interval is useless
Losses = dict[str, "NDArray[np.float64]"]


def attack(folder: RunFolder) -> tuple[list[AttackReading], list[str]]:
    """Attack a run's model, over all rows and over each slice of the config.

    Args:
        folder: a finished run.

    Returns:
        The readings, and the slices that are too small for one.

    Raises:
        BadInputError: the run has no model yet, or its files are gone.
        BudgetRefusedError: the policy of the data does not allow exact readings.
        LedgerError: the data is registered, and the journal cannot be written.
    """
    from privacy_pipeline.dp.attacks.membership import threshold_attack

    summary, spec = folder.read_summary(), folder.read_spec()
    if summary is None:
        raise BadInputError(f"run {folder.run_id} has no model to attack", fix=f"privacy-pipeline show {folder.run_id}")
    if told := folder.read_state().was_pruned:
        raise BadInputError(told, fix="attack a run that is there, or run again")
    if spec.features is None:
        raise BadInputError("an attack needs the public schema of the run's data", fix="set dataset.schema")
    examples = examples_behind(connection_config(spec.config), model_uri=summary.model_uri)
    admission.begin_attack(
        spec.config,
        span=spec.span,
        digest=spec.data_digest,
        run_id=folder.run_id,
        rows=lambda secret: _digests(examples, secret),
    )
    columns = [name for group in spec.config.evaluation.slices if len(group) == 1 for name in group]
    sides = [
        _losses(literal(Path(summary.model_uri)), examples / f"Split-{split}", spec.features, columns)
        for split in ("train", "eval")
    ]
    found = [threshold_attack(sides[0].pop("overall"), sides[1].pop("overall"))]
    small = []
    for name in sorted(sides[0].keys() & sides[1].keys()):
        if min(sides[0][name].size, sides[1][name].size) < _SMALLEST_SLICE:
            small.append(name)
        else:
            found.append(threshold_attack(sides[0][name], sides[1][name], slice_name=name))
    return found, [*small, *sorted(sides[0].keys() ^ sides[1].keys())]


def examples_behind(connection: Any, *, model_uri: str) -> Path:
    """Return the folder of the raw examples that a model was made from, by the lineage in ML Metadata.

    Args:
        connection: an `ml_metadata` ConnectionConfig.
        model_uri: folder of the model, or one inside its artifact.

    Raises:
        BadInputError: the model is not in ML Metadata, or its examples are gone.
    """
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    store = store_of(connection)
    model = Path(model_uri)
    uris = {str(uri) for named in (model, literal(model)) for uri in (named, *named.parents)}
    at = [artifact for uri in uris for artifact in store.get_artifacts_by_uri(uri)]
    seen: set[int] = set()
    while at:
        made = [e for e in store.get_events_by_artifact_ids([a.id for a in at]) if e.type == mlmd.Event.OUTPUT]
        used = store.get_events_by_execution_ids([event.execution_id for event in made])
        inputs = [event for event in used if event.type == mlmd.Event.INPUT]
        # An artifact that was made from no other artifact was ingested.
        ingested = {e.artifact_id for e in made} - {
            e.artifact_id for e in made if e.execution_id in {event.execution_id for event in inputs}
        }
        for artifact in at:
            if artifact.id in ingested and (Path(artifact.uri) / "Split-train").is_dir():
                return Path(artifact.uri)
        new = {event.artifact_id for event in inputs} - seen
        seen |= new
        at = store.get_artifacts_by_id(sorted(new))
    raise BadInputError(
        f"{model_uri}: the examples that this model was trained on are gone or not in ML Metadata",
        fix="run the pipeline again in this workspace",
    )


def _digests(examples: Path, secret: bytes) -> NDArray[np.uint64]:
    """Return digests of the rows of all splits."""
    hasher = RowHasher(secret)
    files = sorted(path for path in examples.glob("Split-*/*") if path.is_file())
    return hasher.records([record for file in files for record in tfrecord.records(file=file)])


def _losses(model_dir: Path, split: Path, features: FeaturePlan, columns: list[str]) -> Losses:
    """Return the losses of a split's rows: "overall", and by slice."""
    import numpy as np
    import tensorflow as tf

    # Do not use the probability that the model serves: float32 rounds it to 1 where losses still differ.
    model = tf.keras.models.load_model(str(model_dir), compile=False)
    transform = tf.saved_model.load(str(model_dir)).signatures["transform_features"]
    held: dict[str, list[Any]] = {}
    for records, values in _batches(split, features, columns):
        transformed = transform(examples=records)
        labels = tf.cast(tf.reshape(transformed[LABEL_FEATURE], [-1, 1]), tf.float32)
        outputs = model({name: transformed[name] for name in model.input_names}, training=False)
        losses = tasks.of(features).row_losses(labels, outputs).numpy().astype(np.float64)
        held.setdefault("overall", []).append(losses)
        for column, found in values.items():
            for value in np.unique(found):
                held.setdefault(f"{column}={value}", []).append(losses[found == value])
    if not held:
        raise BadInputError(f"{split}: there are no examples", fix="run the pipeline again")
    return {name: np.concatenate(parts) for name, parts in held.items()}


def _batches(split: Path, features: FeaturePlan, columns: list[str]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield serialized rows, with their values of some columns as text."""
    import tensorflow as tf

    dtypes = {"int": tf.int64, "float": tf.float32, "bytes": tf.string}
    known = {c.name: tf.io.VarLenFeature(dtypes[c.dtype]) for c in features.columns if c.name in columns}
    files = sorted(str(path) for path in split.iterdir() if path.is_file())
    for records in tf.data.TFRecordDataset(files, compression_type="GZIP").batch(_BATCH):
        parsed = tf.io.parse_example(records, known) if known else {}
        values = {name: _as_text(tf.sparse.to_dense(value).numpy()) for name, value in parsed.items()}
        yield records, values


def _as_text(values: Any) -> Any:
    import numpy as np

    flat = values[:, 0] if values.shape[1] else np.full(len(values), "", object)
    return np.array([v.decode(errors="replace") if isinstance(v, bytes) else f"{v:g}" for v in flat])


def keep(folder: RunFolder, readings: list[AttackReading]) -> None:
    """Keep readings in the run's folder, in place of earlier ones."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    entries = [{"made": now, **reading.to_json()} for reading in readings]
    write_atomically(path=folder.path / ATTACKS, text=json.dumps(entries, indent=2))
