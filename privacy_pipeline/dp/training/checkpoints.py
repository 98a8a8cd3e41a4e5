"""What a run's key is bound to, and what its checkpoints hold."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from privacy_pipeline.dp.noise.masks import unkeyed_randomness
from privacy_pipeline.dp.training import run_state
from privacy_pipeline.dp.training.replays import Replays
from privacy_pipeline.dp.training.run_state import RunState, StateMismatch
from privacy_pipeline.errors import BadInputError

_NAMES_ONLY = frozenset({"container", "shared_name"})
# Environment that changes last bits: numbers of threads, and which kernels TensorFlow, NumPy's BLAS and CUDA take.
_NUMERICS = (
    *("CUBLAS_", "DNNL_", "MKL_", "NPY_", "NVIDIA_TF32", "OMP_", "ONEDNN_", "OPENBLAS_", "GOTO_", "XLA_"),
    *("TF_CUDNN", "TF_DISABLE", "TF_ENABLE_ONEDNN", "TF_NUM_", "TF_XLA"),
)


def _processors() -> int | None:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return None


@contextmanager
def deterministic_ops() -> Iterator[None]:
    """While open, TensorFlow's ops give the same bits each time."""
    from tensorflow.python.framework import config

    before = config.is_op_determinism_enabled()
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not before:
            config.disable_op_determinism()


def graph_digest(graph: Any) -> str:
    """Return the SHA-256 over a graph's ops, their attributes, constants and wiring; not over names, which vary."""
    definition = graph.as_graph_def()
    inner = [_nodes_digest(function.node_def, function.signature.input_arg) for function in definition.library.function]
    return hashlib.sha256("".join([_nodes_digest(definition.node, ()), *sorted(inner)]).encode()).hexdigest()


def captured_digest(graph: Any, *, variables: Sequence[Any] = ()) -> str:
    """Return the SHA-256 over the values that a graph takes from outside, and that its nodes do not show.

    A graph holds small constants only; a larger one that a layer made before is an input of it.

    Args:
        graph: graph of a concrete function.
        variables: variables whose values belong to it.
    """
    from tensorflow.python.framework.ops import EagerTensor

    outside = [given for given, _ in graph.captures if isinstance(given, EagerTensor)]
    constants = [given.numpy() for given in outside if given.dtype not in (tf.resource, tf.variant)]
    digest = hashlib.sha256()
    for value in [*constants, *(variable.numpy() for variable in variables)]:
        array = np.asarray(value)
        content = repr(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).tobytes()
        digest.update(f"{array.dtype.str}{array.shape}{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _nodes_digest(nodes: Sequence[Any], arguments: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    places = {holder.name: place for place, holder in enumerate([*arguments, *nodes])}
    for node in nodes:
        digest.update(node.op.encode())
        for source in node.input:
            name, *output = source.lstrip("^").split(":")
            digest.update(f"{places[name]}{output}".encode())
        for name in sorted(node.attr):
            value = node.attr[name]
            if name.startswith("_") or name in _NAMES_ONLY or value.HasField("func") or value.list.func:
                continue
            digest.update(name.encode() + value.SerializeToString(deterministic=True))
    return digest.hexdigest()


def _engine_digest() -> str:
    """Return the SHA-256 over this package's sources: other code may draw other noise for the same key and step."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def machine_facts() -> list[str]:
    """Return what the last bits of a sum depend on beside its terms."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    processor = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    threads = tf.config.threading
    return [
        f"engine {_engine_digest()}",
        f"tensorflow {tf.__version__}",
        f"numpy {np.__version__}",
        platform.machine(),
        *processor,
        *[device.name for device in tf.config.list_physical_devices()],
        # TensorFlow cuts a long sum by the number of processors that this process may run on.
        f"threads {os.cpu_count()} {_processors()} {threads.get_intra_op_parallelism_threads()}",
        *[f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_NUMERICS)],
    ]


def binding_of(*, graph: Any, weights: Sequence[Any], data: str, settings: Sequence[Any]) -> str:
    """Return the digest of all that decides a run beside its key and the weights it starts from.

    Args:
        graph: graph of a whole step: model, loss, clipping and optimizer.
        weights: all variables of the model.
        data: digest of the data.
        settings: JSON values: plan, optimizer as configured, and what a graph does not show.

    Raises:
        BadInputError: something random in the step is not a function of the key.
    """
    found = unkeyed_randomness(graph)
    if found:
        raise BadInputError(
            f"'{found[0]}' draws or keeps what the run's key does not decide, so that a run could not resume",
            fix="use a Keras layer such as Dropout or GaussianNoise in its place, or leave state_dir out",
        )
    shapes = [[weight.shape.as_list(), weight.dtype.name] for weight in weights]
    held = [graph_digest(graph), captured_digest(graph), shapes, data, list(settings), machine_facts()]
    return hashlib.sha256(json.dumps(held, sort_keys=True, default=repr).encode()).hexdigest()


class Checkpoints:
    """Keeps a run's progress: weights, optimizer, whatever else the steps change, and what was released on the way.

    Args:
        state: the run's state on disk.
        steps: steps of the plan.
        variables: all that the steps change, in an order that repeats.
        others: variables that decide a step, and that it does not change: the learning rate, for one.
        history: values by name, filled while the training goes on.
        watched: whether code of the caller's runs between steps.

    Attributes:
        resumed_at: steps that were made before; None for a new run.

    Raises:
        StateMismatch: what the run noted is lost or damaged; its state is destroyed.
    """

    def __init__(
        self,
        *,
        state: RunState,
        steps: int,
        variables: Sequence[Any],
        others: Sequence[Any],
        history: Mapping[str, list[float]],
        watched: bool,
    ) -> None:
        self._state = state
        self._variables = list(variables)
        self._all = list({id(variable): variable for variable in [*variables, *others]}.values())
        self._history = history
        self._watched = watched
        self._saved = time.monotonic()
        self._expected = ""
        self._first = True
        self.resumed_at: int | None = None
        with self._destroying():
            self._replays = Replays(state.folder, steps=steps, resumed=state.resumed)

    @contextmanager
    def _destroying(self) -> Iterator[None]:
        try:
            yield
        except StateMismatch:
            self._state.destroy()
            raise

    def begin(self) -> int:
        """Go back to the last checkpoint, or make the first; return the number of steps that were made."""
        if not self._state.resumed:
            self._expected = self.save(0)
            return 0
        self.resumed_at, arrays = self._state.load()
        for place, variable in enumerate(self._variables):
            variable.assign(arrays[f"variable.{place}"])
        for name, values in self._history.items():
            values[:] = arrays[f"history.{name}"].tolist()
        self._expected = str(arrays["digest"])
        return self.resumed_at

    @property
    def released(self) -> int:
        """Steps that were made in this process or an earlier one, or may have been; going back does not lower it."""
        return self._replays.begun

    def before(self, step: int) -> None:
        """Compare a step that was made before with its state then, or note it.

        Raises:
            StateMismatch: the step was made before from another state; the run's is destroyed.
        """
        # Where no code of the caller's runs between steps, their state follows from that of the first one.
        digest = self._digest() if self._watched or self._first else ""
        with self._destroying():
            self._replays.make(step, digest=digest, expected=self._expected)
        self._first = False

    def after(self) -> None:
        """Call when a step is done, before any code of the caller's."""
        self._expected = self._digest() if self._watched else ""

    def save(self, step: int) -> str:
        """Save now; return the digest of what was saved."""
        digest = self._digest()
        arrays = {f"variable.{place}": variable.numpy() for place, variable in enumerate(self._variables)}
        arrays.update({f"history.{name}": np.array(values) for name, values in self._history.items()})
        arrays["digest"] = np.array(digest)
        self._state.save(step, arrays)
        self._saved = time.monotonic()
        return digest

    def made(self, step: int, *, last: bool) -> None:
        """Save after a step, if it is the last one or it is time."""
        if last or time.monotonic() - self._saved >= run_state.CHECKPOINT_SECONDS:
            self.save(step)

    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for variable in self._all:
            digest.update(variable.numpy().tobytes())
        return digest.hexdigest()
