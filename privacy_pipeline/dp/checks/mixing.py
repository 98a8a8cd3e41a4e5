"""Whether one row of a batch reaches another one, on made-up rows: finite changes and gradients, in training mode.

Each row is replaced by others, and the rest of the batch must stay as it was: losses, what passes between the layers,
and the gradients that come back. Gradients of one row's loss must reach no other row. Values are of several sizes, so
that what mixes above a threshold shows, and labels change their classes, so that counts over the batch show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp.checks.findings import BACKWARD, FORWARD, LOSS, Finding, instead_of
from privacy_pipeline.dp.checks.made_up import Kind, MadeUp, Row, computes_in_half, varied
from privacy_pipeline.dp.clipping.gradients import Losses
from privacy_pipeline.dp.clipping.witness import Seen, Witness, changed, reached
from privacy_pipeline.dp.graphs.tracing import Traced, random_ops
from privacy_pipeline.errors import BadInputError

_FEWEST = 4  # rows of a batch
_RELATIVE = 1e-3  # rounding of float32, with much room
_HALF = 50  # times the rounding where a layer computes in half precision
_FLOOR, _LOOSE_FLOOR = 1e-6, 1e-4  # of batches of the same shape, and of others: kernels round by shape
_LARGE = 1e4
_NOT_TAKEN = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)  # values, or their type
# What the rows of a batch are like. Labels are classes or numbers of the same size.
_BASES = (
    Kind(),
    Kind(signed=True, label=None),
    Kind(scale=1e-3, signed=True),
    Kind(scale=30.0, label=None),
    Kind(scale=_LARGE, signed=True),
)
# Random ops that draw a row's numbers whatever rows come after it.
_PREFIX = ("StatelessRandomUniform", "StatelessRandomNormal", "StatelessRandomGet")


@dataclass(frozen=True)
class _Change:
    """Rows of a batch that changed, and the batch before.

    Attributes:
        kept: places of the same rows before and after, in the same order.
        shape: whether the number or the order of rows is another one.
        seen: the batch before, and after.
    """

    kept: tuple[Sequence[int], Sequence[int]]
    shape: bool
    seen: tuple[Seen, Seen]


def find_mixing(*, model: Any, losses: Losses, x: Any, y: Any) -> Finding | None:
    """Return what shows that a row reaches another one, or None.

    Args:
        model: built Keras model.
        losses: gives the loss of each example.
        x: nest of `tf.TensorSpec` or `tf.RaggedTensorSpec` of the inputs, [None, ...].
        y: nest of those of the labels.

    Raises:
        BadInputError: the model takes no made-up inputs, or its losses are not one number for each example.
    """
    with varied(model.trainable_variables):
        witness = Witness(model=model, losses=losses, x=x, y=y)
        made = MadeUp(model=model, x=x, y=y, outputs=witness.outputs)
        search = _Search(model, witness, made)
        return search.trained() or search.served(Traced(witness.served, x, y))


def _last_line(message: str) -> str:
    """Return what went wrong: TensorFlow first prints where the op was made."""
    lines = [line.strip() for line in message.splitlines() if line.strip() and "[Op:__inference" not in line]
    told = [line for line in lines if not line.startswith(("File ", "Detected at", "Graph execution", "[[{{node"))]
    return (told or lines or [message])[-1][:300]


def _draws_ahead(graph: Any) -> bool:
    """Return whether numbers are drawn along an axis ahead of the rows, so that a row's depend on their number."""
    drawn = [op for op in graph.get_operations() if op.type.startswith("StatelessRandom") and op.outputs]
    shapes = [op.outputs[0].shape for op in drawn]
    return any(shape.rank is not None and None in shape.as_list()[1:] for shape in shapes)


@dataclass
class _Search:
    """Runs batches and compares what became of their rows."""

    model: Any
    witness: Witness
    made: MadeUp
    errors: list[str] = field(default_factory=list)

    def trained(self) -> Finding | None:
        """Return the first finding in training mode."""
        repeatable: bool | None = None
        for number, kind in enumerate(_BASES):
            rows = self._rows(kind)
            before = self._see(rows)
            if before is None:
                continue
            if repeatable is None:
                again = self._see(rows)
                repeatable = again is not None and self._wrong(_all_kept(before, again)) is None
            for change in self._changes(number, rows, before, repeatable):
                wrong = self._wrong(change)
                if wrong is not None:
                    return wrong
            for place in range(len(rows)) if number == 0 else (number % len(rows),):
                wrong = self._influence(rows, place)
                if wrong is not None:
                    return wrong
        if repeatable is None:
            raise BadInputError(
                f"model '{self.model.name}' takes no made-up inputs of its own shapes: {_last_line(self.errors[0])}",
                fix="make the model take any values of its inputs' types",
            )
        return None

    def served(self, losses: Traced) -> Finding | None:
        """Return a finding in inference mode: losses of rows alone, and together.

        Of a model that draws by the key then, which gives each place its number, only the first row is compared; and of
        one that draws without the key, none.
        """
        more = _HALF if computes_in_half(self.model) else 1
        found = random_ops(losses.concrete.graph)
        drawn = found if self.witness.served_draws else []
        if not all(op.startswith(_PREFIX) for op in drawn) or not all(op.startswith("Stateless") for op in found):
            return None
        if drawn and _draws_ahead(losses.concrete.graph):
            return None
        for kind in (_BASES[0], _BASES[-1]):
            rows = self._rows(kind)
            compared = rows[:1] if drawn else rows
            try:
                together = losses(*self.made.batch(rows)).numpy()
                alone = [losses(*self.made.batch([row])).numpy() for row in compared]
            except _NOT_TAKEN:
                continue  # values that the model does not take
            for one, other in zip(alone, together[: len(compared)], strict=True):
                floor = 1e-6 + _LOOSE_FLOOR * (kind.scale if kind.scale > 1 else 0.0)
                if one.shape != (1,) or not _close(float(one[0]), float(other), floor=more * floor, more=more):
                    return self._finding(None, "", LOSS)
        return None

    def _rows(self, kind: Kind) -> list[Row]:
        """Return rows of a batch whose classes are of unequal counts."""
        taken = self.made.dimensions() | {size for shape in self.witness.outputs for size in shape.as_list()[1:]}
        count = next(size for size in range(_FEWEST, _FEWEST + len(taken) + 1) if size not in taken)
        return [self.made.row(number, _labelled(kind, int(number == 1))) for number in range(count)]

    def _see(self, rows: Sequence[Row], weights: Sequence[float] | None = None) -> Seen | None:
        """Return what became of rows; None where the model does not take their values."""
        try:
            seen = self.witness.see(*self.made.batch(rows), [1.0] * len(rows) if weights is None else weights)
        except _NOT_TAKEN as error:
            self.errors.append(str(error.message))
            return None
        if seen.losses.shape != (len(rows),):
            raise BadInputError(
                f"model '{self.model.name}': {len(rows)} examples have losses of shape {seen.losses.shape}",
                fix="return one loss for each example, a tensor of shape [batch]",
            )
        return seen

    def _changes(self, base: int, rows: list[Row], before: Seen, repeatable: bool) -> Iterator[_Change]:
        """Yield batches that differ from `rows` in one row, or in number and order of rows."""
        count = len(rows)
        for place, number, other in self._replacements(base, count):
            if not (repeatable or other.poison):
                continue  # other masks would hide what changes; NaN passes them
            after = self._see([*rows[:place], self.made.row(number, other), *rows[place + 1 :]])
            if after is None:
                continue
            kept = [row for row in range(count) if row != place]
            change = _Change((kept, kept), False, (before, after))
            yield change if repeatable else _finite_alone(change)
        if base > 1 or not repeatable:
            return
        for order in self._orders(count):
            after = self._see([rows[place] for place in order])
            if after is not None:
                yield _Change((list(order), list(range(len(order)))), True, (before, after))

    def _replacements(self, base: int, count: int) -> Iterator[tuple[int, int, Kind]]:
        """Yield places, and number and kind of what comes there. The class is another one than the row's own."""
        kind = _BASES[base]
        far = replace(kind, scale=_LARGE if kind.scale < _LARGE else 1e-3)
        for place in range(count) if base == 0 else (base % count, count - 1):
            label = 0 if place == 1 else 1 + place
            yield place, count + 1 + place, _labelled(kind, label)
            yield place, place ^ 1, _labelled(far, label)
            if base == 0:
                yield place, count + 1 + place, replace(kind, poison=True, label=label, missing=float("nan"))
            if base == 0 and place < 2:
                yield place, count + 1 + place, replace(kind, missing=-1.0)

    def _orders(self, count: int) -> Iterator[Sequence[int]]:
        """Yield which rows are in a batch, and in which order."""
        drawn = random_ops(self.witness.graph)
        if all(op.startswith(_PREFIX) for op in drawn) and not _draws_ahead(self.witness.graph):
            yield range(count - 1)
        if not drawn:
            yield range(count - 1, -1, -1)
            yield range(1, count)
            yield (count // 2,)

    def _wrong(self, change: _Change) -> Finding | None:
        before, after = (seen.take(kept) for seen, kept in zip(change.seen, change.kept, strict=True))
        more = _HALF if change.shape and computes_in_half(self.model) else 1
        floor = more * _LOOSE_FLOOR if change.shape else _FLOOR
        relative = 10 * _RELATIVE if change.shape else _RELATIVE
        losses, forward, backward = changed(before, after, relative=relative, floor=floor)
        if forward.any() or losses:
            layer = next((c[0] for c in self.witness.calls if _begins(forward, c[1], c[2], before)), None)
            return self._finding(layer, "forward", f"in training, {LOSS if losses else FORWARD}")
        if backward.any():
            layer = next((c[0] for c in self.witness.calls if _begins(backward, c[2], c[1], before)), None)
            return self._finding(layer, "backward", f"in training, {BACKWARD}")
        return None

    def _influence(self, rows: Sequence[Row], place: int) -> Finding | None:
        """Return whether the gradient of one row's loss reaches other rows."""
        seen = self._see(rows, [float(row == place) for row in range(len(rows))])
        if seen is None:
            return None
        flags = reached(seen, [row for row in range(len(rows)) if row != place])
        if not flags.any():
            return None
        layer = next((c[0] for c in self.witness.calls if _begins(flags, c[2], c[1], seen)), None)
        return self._finding(layer, "gradient", "in training, an example's loss depends on other examples of its batch")

    def _finding(self, layer: Any, way: str, what: str) -> Finding:
        named = "" if layer is None or layer is self.model else f", layer '{layer.name}' ({type(layer).__name__})"
        if layer is None and way:
            named = ", in its loss or between its layers"
        return Finding(f"model '{self.model.name}'{named}: {what}", instead_of(layer))


def _labelled(kind: Kind, label: int) -> Kind:
    return kind if kind.label is None else replace(kind, label=label)


def _all_kept(before: Seen, after: Seen) -> _Change:
    places = list(range(len(before.losses)))
    return _Change((places, places), False, (before, after))


def _finite_alone(change: _Change) -> _Change:
    """Return the change with 1 in place of what is finite, 0 in place of nothing."""

    def marks(values: Any) -> Any:
        return np.where(np.isfinite(values), 1.0, values)

    one, two = (Seen(marks(s.losses), marks(s.forward), marks(s.backward)) for s in change.seen)
    return _Change(change.kept, change.shape, (one, two))


def _begins(flags: Any, before: Sequence[int], after: Sequence[int], seen: Seen) -> bool:
    """Return whether tensors `after` are flagged and tensors `before`, all of which follow the batch, are not."""
    known = all(np.isfinite(seen.forward[place, :, -1]).all() for place in before)
    return known and not any(flags[place] for place in before) and any(flags[place] for place in after)


def _close(found: float, expected: float, *, floor: float, more: float) -> bool:
    if not np.isfinite(expected):
        return not np.isfinite(found)
    return bool(abs(found - expected) <= more * _RELATIVE * abs(expected) + floor)
