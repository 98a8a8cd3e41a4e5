"""A first config and schema for a user's own CSV file."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import NamedTuple

import yaml

from privacy_pipeline.data.schema.encoder import LONGEST_CATEGORY, TOO_COARSE, coarse
from privacy_pipeline.data.starting.profile import MOST_VALUES, ColumnProfile, CsvProfile, profile_csv
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.atomic import write_atomically
from privacy_pipeline.files.literal_paths import require_utf8
from privacy_pipeline.tasks import registry as tasks

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")

_CONFIG = """\
# Trains a plain model on {file}: no privacy guarantee yet. See "To train with differential privacy" below.
# Paths are relative to the folder that the command runs in.

pipeline: {name}

dataset:
  name: {name}
  path: {path}
  input: {pattern}
  # Rows go to train or eval by a hash. Once the dataset is registered in the ledger, this division is fixed.
  hash_split: {{train: 4, eval: 1}}
  # Made from the data: review each feature (public domains and ranges), then remove its tag "unreviewed".
  schema: {schema}
  label: {label}
  {task}
  # Whose privacy is at stake. Where one person owns several rows, name the column that identifies the person:
  # privacy_unit: {{key: person_id, contribution_bound: 4}}
  privacy_unit: row

model:
  hidden_units: [64, 32]

training:
  backend: plain
  # epochs, batch_size and learning_rate have defaults of each backend's own.
  # To train with differential privacy: review the schema, set `backend: dp_sgd`, and uncomment this block.
  # dp_sgd:
  #   target_epsilon: 3
  #   delta: {delta}  # below 1 / number of units

evaluation:
  # A model that misses a threshold is not blessed, and so not pushed.
  thresholds:
    {threshold}
  # slices: [column]
"""

_TWO = "positive_class: {}  # the rarer of the two values"
_SEVERAL = "# Without `positive_class` each value of the label is a class (task multiclass)."
_NUMBER = "task: {}  # the label is a number to be predicted, within the range that the schema gives"

_SCHEMA_HEAD = """\
# Schema of {file}, TensorFlow Data Validation text format.
#
# The domains and ranges below were READ FROM THE DATA, so they are private themselves. Before a DP run replace them by
# ones that are publicly known (a code book, a law of nature, a form's choices), and then remove the feature's tag
# "unreviewed". The tag "ignore" keeps a column out of the model.
"""


class Started(NamedTuple):
    """What `write_starter` wrote.

    Attributes:
        config, schema: the files.
        notes: what a person should look at first.
    """

    config: Path
    schema: Path
    notes: tuple[str, ...]


class _Label(NamedTuple):
    """What the label is predicted as: a number, one of two classes or one of several."""

    is_number: bool
    positive: str | int | None = None

    @property
    def line(self) -> str:
        """Its line in the config."""
        if self.is_number:
            return _NUMBER.format(tasks.name_of(None, is_number=True))
        if self.positive is None:
            return _SEVERAL
        return _TWO.format(self.positive if isinstance(self.positive, int) else _quoted(self.positive))

    @property
    def threshold(self) -> str:
        """A threshold that a model which learnt something meets."""
        if self.is_number:
            return "r2: {min: 0.05}"
        return "accuracy: {min: 0.5}" if self.positive is None else "auc: {min: 0.6}"


def write_starter(*, csv: Path, folder: Path, label: str, name: str | None = None, force: bool = False) -> Started:
    """Write a commented config and a schema to review.

    Args:
        csv: the user's CSV file, with a header.
        folder: gets `NAME.yaml` and `schemas/NAME.pbtxt`.
        label: label column. Text, and whole numbers of a few values, are classes; other numbers are predicted as such.
        name: name of pipeline and dataset; from the file's name if None.
        force: replace files that exist.

    Raises:
        BadInputError: the CSV or the label is not usable, the name or a path is not valid, or a file exists.
    """
    for given in (csv, folder):
        require_utf8(given)
    name = _from_stem(csv.stem) if name is None else name
    if not _NAME.fullmatch(name):
        raise BadInputError(f"name '{name}' must match {_NAME.pattern}", fix="choose another name")
    config_path, schema_path = folder / f"{name}.yaml", folder / "schemas" / f"{name}.pbtxt"
    for path in (config_path, schema_path):
        if path.exists() and not force:
            raise BadInputError(f"{path}: exists already", fix="choose another name, or add --force to replace it")
    profile = profile_csv(csv_path=csv)
    found = _found_label(csv, profile, label)
    text = _CONFIG.format(
        file=_in_a_comment(csv.name),
        name=name,
        path=_quoted(str(csv.parent)),
        pattern=_quoted(_as_pattern(csv)),
        schema=_quoted(str(schema_path)),
        label=_quoted(label),
        task=found.line,
        threshold=found.threshold,
        delta=f"1e-{len(str(profile.rows))}",
    )
    write_atomically(path=schema_path, text=_schema(csv, profile, label, is_number=found.is_number))
    write_atomically(path=config_path, text=text)
    return Started(config=config_path, schema=schema_path, notes=_notes(profile))


def _notes(profile: CsvProfile) -> tuple[str, ...]:
    """Return notes on columns that look useful, and are left out."""
    found = [(one.name, coarse(one.low, one.high)) for one in profile.columns if one.kind == "float"]
    return tuple(f"column '{name}' is left out: {why}; {TOO_COARSE}" for name, why in found if why is not None)


def _from_stem(stem: str) -> str:
    name = re.sub(r"[^a-z0-9_-]+", "_", stem.lower()).lstrip("0123456789_-")[:63]
    return name or "dataset"


def _in_a_comment(name: str) -> str:
    """Return a name without what would end a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _quoted(text: str) -> str:
    dumped: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6)
    return dumped.strip()


def _as_pattern(csv: Path) -> str:
    if re.search(r"[{}]", csv.name):
        raise BadInputError(f"{csv}: the file's name holds braces, which stand for spans", fix="rename the file")
    return glob.escape(csv.name)


def _found_label(csv: Path, profile: CsvProfile, label: str) -> _Label:
    """Return what the label is predicted as; of two values the rarer one is the positive class."""
    column = next((column for column in profile.columns if column.name == label), None)
    if column is None:
        names = ", ".join(column.name for column in profile.columns)
        raise BadInputError(f"{csv}: there is no label column '{label}'", fix=f"the header has: {names}")
    if column.missing:
        raise BadInputError(f"{csv}: {column.missing} rows have no label '{label}'", fix="remove these rows")
    if column.kind in ("int", "float") and column.low < column.high and (column.kind == "float" or column.many_values):
        why = coarse(column.low, column.high) if column.kind == "float" else None
        if why is not None:
            raise BadInputError(f"{csv}: label '{label}': {why}", fix=TOO_COARSE)
        return _Label(is_number=True)
    if len(column.values) < 2 or column.many_values:
        count = f"more than {MOST_VALUES}" if column.many_values else str(len(column.values))
        raise BadInputError(
            f"{csv}: label '{label}' has {count} distinct values; a label needs from two to {MOST_VALUES}",
            fix="choose or make a column with a value for each class",
        )
    if len(column.values) > 2:
        return _Label(is_number=False)
    rarer = min(column.values, key=lambda value: (column.values[value], value))
    return _Label(is_number=False, positive=int(rarer) if column.kind == "int" else rarer)


def _schema(csv: Path, profile: CsvProfile, label: str, *, is_number: bool) -> str:
    features = [_feature(column, has_classes=column.name == label and not is_number) for column in profile.columns]
    return _SCHEMA_HEAD.format(file=_in_a_comment(csv.name)) + "".join(features)


def _feature(column: ColumnProfile, *, has_classes: bool) -> str:
    kind = {"empty": "BYTES", "int": "INT", "float": "FLOAT", "bytes": "BYTES"}[column.kind]
    body, ignored = _domain(column, has_classes=has_classes)
    tags = ["unreviewed", "ignore"] if ignored else ["unreviewed"]
    always = "  presence { min_fraction: 1 min_count: 1 }\n  shape { dim { size: 1 } }\n"  # a shape demands a value
    presence = "" if column.missing else always
    return (
        f"feature {{\n  name: {_proto_text(column.name)}\n  type: {kind}\n{presence}{body}"
        f"  annotation {{ {' '.join(f'tag: {_proto_text(tag)}' for tag in tags)} }}\n}}\n"
    )


def _domain(column: ColumnProfile, *, has_classes: bool) -> tuple[str, bool]:
    """Return the domain or range as text, and whether the column is to be left out of the model."""
    if column.kind == "empty":
        return "  # No row has a value.\n", True
    if column.kind == "bytes":
        if any(len(value.encode()) > LONGEST_CATEGORY for value in column.values):
            return f"  # A value is longer than the {LONGEST_CATEGORY:,} bytes of a category: free text.\n", True
        if column.many_values:
            return (
                f"  # More than {MOST_VALUES} distinct values: free text, an identifier, or numbers mixed with text.\n"
            ), True
        values = "".join(f"    value: {_proto_text(value)}\n" for value in sorted(column.values))
        return f"  string_domain {{  # values read from the data: replace by the public list\n{values}  }}\n", False
    if column.low >= column.high:
        return "  # All rows have the same value.\n", True
    note = "range read from the data: replace by a public one"
    why = coarse(column.low, column.high) if column.kind == "float" else None
    if why is not None:
        return f"  # Left out: {why}.\n  # To use it, {TOO_COARSE}.\n", True
    if column.kind == "int":
        low, high = int(column.low), int(column.high)
        categorical = " is_categorical: true" if has_classes else ""
        return f"  int_domain {{ min: {low} max: {high}{categorical} }}  # {note}\n", False
    return f"  float_domain {{ min: {column.low!r} max: {column.high!r} }}  # {note}\n", False


def _proto_text(value: str) -> str:
    return f'"{"".join(map(_proto_character, value))}"'


def _proto_character(character: str) -> str:
    """Return a character as the schema spells it; one that cannot be seen as the bytes that it consists of."""
    if character in '\\"':
        return f"\\{character}"
    return character if character.isprintable() else "".join(f"\\{byte:03o}" for byte in character.encode())
