"""The `preprocessing_fn` that stands for a user's: the graph that crossed from a build, none of the user's Python."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from privacy_pipeline.backends.isolated.crossing.replay import Program, run
from privacy_pipeline.errors import BadInputError

CROSSED = "crossed"
PATH = "privacy_pipeline.components.transform.crossed.preprocessing_fn"
_DTYPES = ("string", "int32", "int64", "float32", "float64", "bool")


def preprocessing_fn(inputs: Mapping[str, Any], custom_config: Mapping[str, Any]) -> dict[str, Any]:
    """Transform a batch of raw columns.

    Args:
        inputs: raw columns by name, dense or sparse.
        custom_config: holds under `crossed` what the build answered, as JSON.

    Returns:
        Dense features by name.

    Raises:
        BadInputError: what crossed is not a preprocessing of these columns, or has ops that are not allowed.
    """
    crossed = json.loads(custom_config[CROSSED])
    program = Program.parsed(crossed.get("program"), what="preprocessing_fn")
    try:
        columns = {str(name): inputs[name] for name in crossed["features"]}
        names = [str(name) for name in crossed["made"]]
        contents = [(_column(table["keys"]), _column(table["values"])) for table in crossed["tables"]]
    except (KeyError, TypeError, ValueError):
        raise BadInputError("model: preprocessing_fn does not fit the columns of the schema", fix="run again") from None
    tables = [
        tft.make_and_track_object(functools.partial(_table, *content), name=f"table_{place}").resource_handle
        for place, content in enumerate(contents)
    ]
    flat = tf.nest.flatten([columns[name] for name in sorted(columns)], expand_composites=True)
    return dict(zip(names, run(program, flat, tables=tables), strict=True))


def _table(keys: tuple[list[Any], str], values: tuple[list[Any], str]) -> Any:
    # The default is given where a table is asked, so that this one is never seen.
    default = "" if values[1] == "string" else 0
    # Made where the table is, which is outside of the graph.
    filled = tf.lookup.KeyValueTensorInitializer(keys[0], values[0], key_dtype=keys[1], value_dtype=values[1])
    return tf.lookup.StaticHashTable(filled, default)


def _column(value: Any) -> tuple[list[Any], str]:
    """Return the values of a column of a table, and their type."""
    if value["dtype"] not in _DTYPES:
        raise ValueError
    if value["dtype"] == "string":
        return [base64.b64decode(one, validate=True) for one in value["values"]], "string"
    return [one for one in value["values"] if isinstance(one, (int, float))], str(value["dtype"])
