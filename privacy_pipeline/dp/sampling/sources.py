"""What `fit` takes as data, made into an `ExampleStore`: arrays, tables, `tf.data`, generators, weights of examples.

What comes in batches is spooled once, to files that only this user may read and that no longer have a name when the
training begins.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from privacy_pipeline.dp.mechanism.mechanism import require, require_numbers
from privacy_pipeline.dp.sampling.store import ExampleStore, Nest, as_array, leaves, map_nest
from privacy_pipeline.errors import BadInputError

_Array = NDArray[Any]
_LEAST_FREE = 0.05  # of a disk that batches are spooled to
_SEQUENCE = tf.keras.utils.Sequence


@dataclass(frozen=True)
class Given:
    """Data of a training.

    Attributes:
        store: the examples. Where labels are missing it holds zeros in their place; where examples have weights, its
            labels are the pair (labels, weights).
        labelled: whether there are labels.
        weighted: whether examples have weights.
    """

    store: ExampleStore
    labelled: bool
    weighted: bool

    def loss(self, function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        """Return a function of (labels of the store, outputs) that computes a loss.

        Args:
            function: loss of each example of (labels, outputs, weights).
        """

        def of_store(labels: Any, outputs: Any) -> Any:
            own, weights = labels if self.weighted else (labels, None)
            return function(own if self.labelled else None, outputs, weights)

        return of_store


def given_data(
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    class_weight: Mapping[int, float] | None = None,
    most: int | None,
) -> Given:
    """Return the data of a `fit`.

    Args:
        x: an `ExampleStore`; inputs as arrays, tensors, tables (pandas, Arrow), or dicts or tuples of those; or batches
            of (x, y) or (x, y, sample_weight): a `tf.data.Dataset`, a Keras `Sequence`, a generator.
        y: labels in the same forms; not with a store or batches.
        sample_weight: weight of each example, [examples], or of each of its steps, [examples, steps]; with several
            outputs in the structure of the losses. Not with batches, which bring their own.
        class_weight: weight by class number of the labels, multiplied with the former; a class that is not named has 1.
        most: examples at most, where that is public; batches that never end are noticed by it.

    Raises:
        BadInputError: the data has another form, or labels and weights do not fit it.
    """
    if isinstance(x, ExampleStore):
        require(y is None, "a store holds its labels itself", "leave y out")
        store, labelled = x, True
    elif _comes_in_batches(x):
        require(y is None and sample_weight is None, "batches bring their labels and weights themselves", "leave y out")
        return _with_classes(_spooled(x, most=most), class_weight)
    else:
        require(not isinstance(x, (str, bytes)), f"x is text: {x!r:.40}", "give arrays of numbers")
        require(not callable(x) or hasattr(x, "shape"), f"x is a function: {x!r:.60}", "call it: fit(generator(), ...)")
        pairs = isinstance(x, list) and y is None and len(x) > 0 and isinstance(x[0], tuple)
        require(not pairs, "x is a list of tuples, one for each example", "give arrays: x, y = map(np.stack, zip(*x))")
        arrays, labelled = arrays_of(x, "x"), y is not None
        require(next(leaves(arrays), None) is not None, "x holds no array", "give the inputs of the model")
        rows = int(next(leaves(arrays))[1].shape[0])
        store = ExampleStore(arrays, arrays_of(y, "y") if labelled else np.zeros(rows, np.uint8))
    weighted = sample_weight is not None
    if weighted:
        store = replace(store, y=(store.y, map_nest(_weights, arrays_of(sample_weight, "sample_weight"))))
    return _with_classes(Given(store, labelled, weighted), class_weight)


def arrays_of(nest: Any, name: str) -> Nest:
    """Return arrays of NumPy for tables, columns, tensors and lists of numbers, in a nest of the same structure.

    Args:
        nest: the values; a list of numbers, or of lists of them, is one array.
        name: what an error calls them.

    Raises:
        BadInputError: they are ragged, sparse, missing, text, or no numbers.
    """
    if isinstance(nest, Mapping):
        return {key: arrays_of(part, f"{name}.{key}") for key, part in nest.items()}
    if isinstance(nest, tuple) or (isinstance(nest, list) and any(hasattr(part, "shape") for part in nest)):
        return tuple(arrays_of(part, f"{name}.{place}") for place, part in enumerate(nest))
    return _array(nest, name)


def _array(values: Any, name: str) -> _Array:
    if isinstance(values, (tf.RaggedTensor, tf.SparseTensor)):
        raise BadInputError(
            f"'{name}' is a {type(values).__name__}: each example needs the same number of values",
            fix="give it dense, padded where examples are of different length: x.to_tensor(), tf.sparse.to_dense(x)",
        )
    package = type(values).__module__.partition(".")[0]
    try:
        array = _of_arrow(values, name) if package == "pyarrow" else np.asarray(values)
    except ValueError:
        raise BadInputError(f"'{name}': its examples are of different length", fix="pad them to one length") from None
    if array.dtype.kind not in "fiub" or array.ndim < 1:
        nullable = _nullable(values, package)
        require(
            not nullable, f"'{name}' has nullable columns of pandas: {nullable}", "x.astype('float32') makes numbers"
        )
        found = "one value" if array.ndim < 1 else f"values of type {array.dtype}{_text_columns(values, package)}"
        raise BadInputError(
            f"'{name}' holds {found}, and has to be an array of numbers with one row for each example",
            fix="encode text as numbers (a StringLookup layer with a public vocabulary), and fill missing values in",
        )
    return as_array(array)


def _text_columns(values: Any, package: str) -> str:
    """Return which columns of a table of pandas are not numbers alone, for an error; their names are public."""
    if package != "pandas" or not hasattr(values, "dtypes") or not hasattr(values, "columns"):
        return ""
    wrong = [str(column) for column in values.columns if np.asarray(values[column]).dtype.kind not in "fiu"]
    return f" in column{'s' if len(wrong) > 1 else ''} {', '.join(wrong)}" if wrong else ""


def _nullable(values: Any, package: str) -> str:
    """Return the names, public, of pandas' number columns that may have missing values: NumPy makes objects of them."""
    if package != "pandas" or not hasattr(values, "dtypes"):
        return ""
    kinds = values.dtypes.items() if hasattr(values, "columns") else [(values.name, values.dtypes)]
    return ", ".join(
        str(name) for name, kind in kinds if hasattr(kind, "na_value") and getattr(kind, "kind", "O") in "fiub"
    )


def _of_arrow(values: Any, name: str) -> _Array:
    """Return an Arrow table as [rows, columns], a column as [rows] or, of lists of one length, [rows, length]."""
    if hasattr(values, "column_names"):
        columns = [_of_arrow(values.column(place), f"{name}.{key}") for place, key in enumerate(values.column_names)]
        return np.stack(columns, axis=1)
    if values.null_count:
        raise BadInputError(f"'{name}' has missing values", fix="fill them in")
    found = values.to_numpy() if hasattr(values, "chunks") else values.to_numpy(zero_copy_only=False)
    return np.stack(found) if found.dtype == object and len(found) else np.asarray(found)


def _weights(array: _Array) -> _Array:
    found = np.asarray(array, np.float32)
    require(bool(np.isfinite(found).all()), "sample_weight holds NaN or an infinite number", "give finite weights")
    return found


def _with_classes(given: Given, class_weight: Mapping[int, float] | None) -> Given:
    """Return the data with weights by class multiplied into the weights of its examples."""
    if class_weight is None:
        return given
    by_number = isinstance(class_weight, Mapping)
    require(by_number, f"class_weight is {class_weight!r:.40}, not a weight for each class", "{0: 1.0, 1: 2.5}")
    require_numbers(**{f"class_weight[{number}]": weight for number, weight in class_weight.items()})
    missing = [number for number, weight in class_weight.items() if weight is None]
    require(not missing, f"class_weight gives class {missing[:1]} no weight", "give a number, or leave the class out")
    labels, weights = given.store.y if given.weighted else (given.store.y, None)
    single = given.labelled and isinstance(labels, np.ndarray) and not isinstance(weights, (dict, tuple))
    require(single, "class_weight needs labels of one output", "give sample_weight, in the structure of the losses")
    classes = np.argmax(labels, -1) if labels.ndim > 1 and labels.shape[-1] > 1 else np.asarray(labels)
    classes = classes.reshape(classes.shape[:1]) if classes.ndim == 2 and classes.shape[1] == 1 else classes
    by_class = np.ones(classes.shape, np.float32)
    for number, weight in class_weight.items():
        by_class[classes == number] = weight
    if weights is not None:
        by_class = by_class * weights
    return Given(replace(given.store, y=(labels, by_class)), given.labelled, True)


# --- batches -------------------------------------------------------------------------------------------------------


def _comes_in_batches(x: Any) -> bool:
    return isinstance(x, (tf.data.Dataset, _SEQUENCE, Iterator))


def _batches(x: Any) -> Iterator[Any]:
    if isinstance(x, tf.data.Dataset):
        if int(x.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise BadInputError("the tf.data.Dataset never ends", fix="drop its repeat(): the plan draws the batches")
        inner = any(isinstance(spec, tf.data.DatasetSpec) for spec in tf.nest.flatten(x.element_spec))
        require(not inner, "the tf.data.Dataset gives datasets", "make tensors of them: flat_map(lambda d: d.batch(n))")
        scalars = [spec for spec in tf.nest.flatten(x.element_spec) if getattr(spec.shape, "rank", 1) == 0]
        require(not scalars, "the tf.data.Dataset gives single examples", "call batch(1024) on it")
        return iter(x)
    return (x[place] for place in range(len(x))) if isinstance(x, _SEQUENCE) else x


@dataclass
class _Spool:
    """Appends arrays to one file for each leaf of a nest. The files have no name, so that a kill leaves none behind."""

    files: list[IO[bytes]] = field(default_factory=list)
    like: Nest = None
    shapes: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    rows: int = 0

    def add(self, nest: Nest) -> None:
        """Append a batch; all of its leaves have the same number of rows."""
        found = dict(leaves(nest))
        shapes = {path: (array.dtype.str, array.shape[1:]) for path, array in found.items()}
        if self.like is None:
            self.like, self.shapes = map_nest(lambda _: None, nest), shapes
            self.files = [tempfile.TemporaryFile() for _ in found]  # noqa: SIM115 (held to the end)
        if shapes != self.shapes:
            raise BadInputError(
                f"a batch has arrays of {shapes}, and the first one of {self.shapes}",
                fix="give each batch the same structure, types and shapes but for the number of rows",
            )
        sizes = {array.shape[0] for array in found.values()}
        if len(sizes) != 1:
            raise BadInputError(
                f"arrays of one batch have {sorted(sizes)} rows", fix="give each example one row of each"
            )
        for file, array in zip(self.files, found.values(), strict=True):
            file.write(np.ascontiguousarray(array).data)
        self.rows += sizes.pop()

    def opened(self) -> Nest:
        """Return all rows, memory-mapped."""
        for file in self.files:
            file.flush()
        arrays = [
            np.memmap(file, np.dtype(dtype), "r", shape=(self.rows, *shape))
            for file, (dtype, shape) in zip(self.files, self.shapes.values(), strict=True)
        ]
        following = iter(arrays)
        return map_nest(lambda _: next(following), self.like)


def _parts(batch: Any) -> tuple[Any, ...]:
    """Return (x, y, sample_weight) of a batch, as far as they are there. A list is taken for a tuple, as in Keras."""
    part = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    while len(part) > 1 and part[-1] is None:
        part = part[:-1]
    return part


def _spooled(x: Iterable[Any], *, most: int | None) -> Given:
    """Return batches, read once."""
    parts = 0
    spool, name = _Spool(), tempfile.gettempdir()
    for batch in _batches(x):
        part = _parts(batch)
        require(1 <= len(part) <= 3, f"a batch has {len(part)} parts", "give (x, y) or (x, y, sample_weight)")
        require(parts in (0, len(part)), "some batches have other parts than others", "give each batch the same")
        parts = len(part)
        named = zip(("x", "y", "sample_weight"), part, strict=False)
        spool.add(tuple(arrays_of(values, name) for name, values in named))
        full = shutil.disk_usage(name)
        if full.free < _LEAST_FREE * full.total:
            raise BadInputError(
                f"the disk of {name} is nearly full after {spool.rows:,} examples; do the batches end?",
                fix="give each example once, by batches that end; TMPDIR names another disk",
            )
        if most is not None and spool.rows > most:
            raise BadInputError(
                f"the batches hold more than the {most} examples of the plan",
                fix="give each example once, by batches that end; or make the plan with the number of this data",
            )
    require(spool.rows > 0, "there is no batch with an example", "give (x, y) in batches")
    found = spool.opened()
    y = found[1] if parts > 1 else np.zeros(spool.rows, np.uint8)
    if parts == 3:
        y = (y, map_nest(_weights, found[2]))
    return Given(ExampleStore(found[0], y), parts > 1, parts == 3)
