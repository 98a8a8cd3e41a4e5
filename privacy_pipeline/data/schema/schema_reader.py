"""The feature plan, read from a curated public schema in TensorFlow Data Validation's text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from privacy_pipeline.data.schema.encoder import TOO_COARSE, coarse
from privacy_pipeline.data.schema.features import RESERVED, Column, FeaturePlan
from privacy_pipeline.errors import BadInputError
from privacy_pipeline.files.bounded import read_bounded
from privacy_pipeline.files.read_once import once

if TYPE_CHECKING:
    from tensorflow_metadata.proto.v0 import schema_pb2

IGNORE_TAG = "ignore"
UNREVIEWED_TAG = "unreviewed"
LARGEST = 1 << 22  # bytes
MOST_CATEGORIES = 10_000  # a one-hot input as wide as this is a mistake

_OTHERWISE = (
    f', or annotation {{ tag: "{IGNORE_TAG}" }}, or let a dp_sgd run release it: `preprocessing: {{dp: {{epsilon: ..., '
    "delta: ...}}` in the config"
)

_NUMBER = "to predict the number, write `task: regression` in the config's dataset"

Dtype = Literal["int", "float", "bytes"]


def read_feature_plan(
    *,
    schema_path: Path,
    label: str,
    positive_class: str | int | None,
    is_number: bool = False,
    unit_key: str | None = None,
    silo: str | None = None,
    may_be_unknown: bool = False,
) -> FeaturePlan:
    """Read which columns the model sees, with their public domains and ranges.

    Args:
        schema_path: TFDV schema in text format.
        label: label column; must be in the schema, with a domain, or a range if it is a number.
        positive_class: value of the label that counts as positive; None where each value is a class.
        is_number: whether the label is a number to be predicted, and not a class.
        unit_key: column that names the privacy unit; never an input of the model.
        silo: column that names a row's silo; an input of the model too, unless the schema has the tag `ignore`.
        may_be_unknown: whether columns may have neither domain nor range, because DP statistics will find them.

    Raises:
        BadInputError: the schema cannot be read, or lacks a domain, a range, the label or the key.
    """
    reader = _Reader(schema_path)
    label_dtype, label_domain, label_range = reader.number(label) if is_number else reader.label(label)
    if positive_class is not None and str(positive_class) not in label_domain:
        raise reader.wrong(
            label, f"'{positive_class}' (dataset.positive_class) is not in the domain: {', '.join(label_domain)}"
        )
    key_dtype = None if unit_key is None else reader.key_dtype(unit_key)
    if silo is not None:
        reader.key_dtype(silo, role="training.federated.silo_privacy.column")
    columns = tuple(
        reader.column(feature, may_be_unknown=may_be_unknown)
        for name, feature in reader.features.items()
        if name not in (label, unit_key) and IGNORE_TAG not in feature.annotation.tag
    )
    if not columns:
        raise BadInputError(f"{schema_path}: no feature is left as an input of the model")
    return FeaturePlan(
        columns=columns,
        label=label,
        label_domain=label_domain,
        label_dtype=label_dtype,
        positive_class=None if positive_class is None else str(positive_class),
        unit_key=unit_key,
        unit_key_dtype=key_dtype,
        silo=silo,
        label_range=label_range,
    )


def unreviewed(schema_path: Path) -> list[str]:
    """Return the features tagged "unreviewed": their domains were read off the data and are not known to be public.

    Args:
        schema_path: TFDV schema in text format.

    Raises:
        BadInputError: the schema cannot be read.
    """
    found = _Reader(schema_path).features
    return [name for name, feature in found.items() if UNREVIEWED_TAG in feature.annotation.tag]


def public_domains(*, schema_path: Path, columns: Iterable[str], label: str) -> dict[str, tuple[str, ...]]:
    """Return the public values of columns that have a domain; columns that the model must not see may be asked for.

    Args:
        schema_path: TFDV schema in text format.
        columns: names of columns of the schema.
        label: the label column, whose range of integers is its domain.

    Raises:
        BadInputError: the schema cannot be read, or a domain is not usable.
    """
    reader = _Reader(schema_path)
    return {name: domain for name in columns if (domain := reader.domain(name, is_label=name == label))}


def schema_bytes(schema_path: Path) -> bytes:
    """Return the content of a schema file, read once in a command.

    Raises:
        OSError: it cannot be read.
        BadInputError: it is longer than any schema.
    """
    path = schema_path.absolute()
    return once(("schema", path), lambda: read_bounded(schema_path, most=LARGEST))


def parse_schema(*, schema_path: Path) -> schema_pb2.Schema:
    """Parse a TFDV text schema.

    Args:
        schema_path: the file.

    Raises:
        BadInputError: the file cannot be read or parsed.
    """
    # Slow to import, and not in the base install.
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    try:
        text = schema_bytes(schema_path).decode("utf-8")
    except FileNotFoundError:
        raise BadInputError(f"{schema_path}: no such file (dataset.schema)", fix="check dataset.schema") from None
    except UnicodeDecodeError:
        raise BadInputError(f"{schema_path}: not a UTF-8 text file", fix="write the schema in text format") from None
    except OSError as error:
        raise BadInputError(f"{schema_path}: cannot be read ({error.strerror})") from None
    try:
        return text_format.Parse(text, schema_pb2.Schema())
    except RecursionError:
        raise BadInputError(f"{schema_path}: is nested too deeply") from None
    except text_format.ParseError as error:
        line = error.GetLine()
        position = f"{line}:{error.GetColumn()} : "
        message = str(error).removeprefix(position)
        raise BadInputError(f"{schema_path}:{line}: {message}" if line else f"{schema_path}: {message}") from None


class _Reader:
    """The features of one schema and the rules for reading them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        schema = parse_schema(schema_path=path)
        self._domains = {domain.name: domain for domain in schema.string_domain}
        self.features: dict[str, schema_pb2.Feature] = {}
        for feature in schema.feature:
            if feature.name in self.features:
                raise self.wrong(feature.name, "is described twice", fix="keep one of the two")
            self.features[feature.name] = feature

    def wrong(self, name: str, what: str, *, fix: str = "") -> BadInputError:
        return BadInputError(f"{self._path}: feature '{name}': {what}", fix=fix)

    def _feature(self, name: str, role: str) -> schema_pb2.Feature:
        if name not in self.features:
            raise BadInputError(
                f"{self._path}: {role} '{name}' is not in the schema",
                fix=f"describe it in the schema; it has: {', '.join(self.features)}",
            )
        return self.features[name]

    def label(self, name: str) -> tuple[Dtype, tuple[str, ...], None]:
        feature = self._feature(name, "dataset.label")
        dtype = self._dtype(feature)
        if dtype == "float":
            raise self.wrong(
                name,
                "the label of classes cannot be FLOAT",
                fix=f"{_NUMBER}; for classes, write the label as INT or BYTES",
            )
        self._one_value(feature)
        domain = self._int_values(feature, few=_NUMBER) if dtype == "int" else self._strings(feature)
        if len(domain) < 2:
            raise self.wrong(name, "the label's domain needs at least two values")
        return dtype, domain, None

    def number(self, name: str) -> tuple[Dtype, tuple[()], tuple[int | float, int | float]]:
        feature = self._feature(name, "dataset.label")
        dtype = self._dtype(feature)
        if dtype == "bytes":
            fix = "write it as INT or FLOAT, or drop dataset.task"
            raise self.wrong(name, "the label of a regression cannot be BYTES", fix=fix)
        self._one_value(feature)
        return dtype, (), self._range(feature, otherwise="")

    def key_dtype(self, name: str, *, role: str = "dataset.privacy_unit.key") -> Literal["int", "bytes"]:
        dtype = self._dtype(self._feature(name, role))
        if dtype == "float":
            what = "privacy unit" if role == "dataset.privacy_unit.key" else "silo"
            raise self.wrong(name, f"the key of the {what} cannot be FLOAT", fix="use INT or BYTES")
        return dtype

    def column(self, feature: schema_pb2.Feature, *, may_be_unknown: bool) -> Column:
        name = feature.name
        if name in RESERVED:
            raise self.wrong(name, "this name is reserved", fix=f'rename the column, or tag it "{IGNORE_TAG}"')
        dtype = self._dtype(feature)
        optional = feature.presence.min_fraction < 1
        self._one_value(feature)
        if may_be_unknown and self._says_nothing(feature, dtype):
            listed = dtype == "bytes" or feature.int_domain.is_categorical
            return Column(name=name, kind="categorical" if listed else "numeric", dtype=dtype, optional=optional)
        if dtype == "bytes":
            return Column(name=name, kind="categorical", dtype=dtype, domain=self._strings(feature), optional=optional)
        if dtype == "int" and feature.int_domain.is_categorical:
            return Column(
                name=name, kind="categorical", dtype=dtype, domain=self._int_values(feature), optional=optional
            )
        minimum, maximum = self._range(feature)
        return Column(name=name, kind="numeric", dtype=dtype, minimum=minimum, maximum=maximum, optional=optional)

    def _says_nothing(self, feature: schema_pb2.Feature, dtype: Dtype) -> bool:
        """Return whether neither domain nor range is there. One that is there has to be whole."""
        if dtype == "bytes":
            return not (feature.HasField("string_domain") or feature.HasField("domain"))
        domain = feature.int_domain if dtype == "int" else feature.float_domain
        return not (domain.HasField("min") or domain.HasField("max"))

    def domain(self, name: str, *, is_label: bool) -> tuple[str, ...]:
        feature = self.features[name]
        if feature.HasField("string_domain") or feature.HasField("domain"):
            return self._strings(feature)
        listed = feature.int_domain.is_categorical or is_label
        return self._int_values(feature) if listed and self._dtype(feature) == "int" else ()

    def _dtype(self, feature: schema_pb2.Feature) -> Dtype:
        from tensorflow_metadata.proto.v0 import schema_pb2

        names: dict[int, Dtype] = {schema_pb2.INT: "int", schema_pb2.FLOAT: "float", schema_pb2.BYTES: "bytes"}
        if feature.type not in names:
            kind = schema_pb2.FeatureType.Name(feature.type)
            raise self.wrong(feature.name, f"type {kind} is not supported", fix="use INT, FLOAT or BYTES")
        return names[feature.type]

    def _one_value(self, feature: schema_pb2.Feature) -> None:
        many = feature.value_count.max > 1 or any(dim.size > 1 for dim in feature.shape.dim)
        if many:
            raise self.wrong(feature.name, "a row may hold one value only", fix="set shape { dim { size: 1 } }")

    def _strings(self, feature: schema_pb2.Feature) -> tuple[str, ...]:
        if feature.HasField("string_domain"):
            values = tuple(feature.string_domain.value)
        elif feature.HasField("domain"):
            if feature.domain not in self._domains:
                raise self.wrong(feature.name, f"there is no string_domain named '{feature.domain}'")
            values = tuple(self._domains[feature.domain].value)
        else:
            values = ()
        if not values:
            raise self.wrong(
                feature.name,
                "a BYTES feature needs a domain",
                fix=f"add string_domain with its public values{_OTHERWISE}",
            )
        if len(values) != len(set(values)):
            twice = next(value for value, number in Counter(values).items() if number > 1)
            raise self.wrong(feature.name, f"'{twice}' is twice in the domain", fix="keep one of the two")
        return values

    def _int_values(self, feature: schema_pb2.Feature, few: str = "drop is_categorical") -> tuple[str, ...]:
        low, high = (int(bound) for bound in self._range(feature))
        if high - low >= MOST_CATEGORIES:
            raise self.wrong(feature.name, f"{high - low + 1} categories are too many", fix=few)
        return tuple(str(value) for value in range(low, high + 1))

    def _range(self, feature: schema_pb2.Feature, otherwise: str = _OTHERWISE) -> tuple[int | float, int | float]:
        which = "int_domain" if self._dtype(feature) == "int" else "float_domain"
        domain = feature.int_domain if which == "int_domain" else feature.float_domain
        if not (feature.HasField(which) and domain.HasField("min") and domain.HasField("max")):
            raise self.wrong(
                feature.name,
                "a numeric feature needs a public range",
                fix=f"add {which} {{ min: ... max: ... }}{otherwise}",
            )
        if not domain.min < domain.max:
            raise self.wrong(feature.name, f"min {domain.min:g} is not below max {domain.max:g}")
        why = coarse(domain.min, domain.max) if which == "float_domain" else None
        if why is not None:
            raise self.wrong(feature.name, why, fix=TOO_COARSE)
        return domain.min, domain.max
