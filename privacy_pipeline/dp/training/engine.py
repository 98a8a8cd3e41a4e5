"""Private training with the feel of Keras: `make_private(model, plan)`, then `fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

from privacy_pipeline.dp.checks.validator import require_private
from privacy_pipeline.dp.history.history import PrivacyHistory
from privacy_pipeline.dp.mechanism.mechanism import require_whole
from privacy_pipeline.dp.plan import PrivacyPlan
from privacy_pipeline.dp.rowwise.sizes import LARGEST
from privacy_pipeline.dp.training.from_keras.keras_step import (
    keras_optimizer,
    require_arguments,
    require_keras_step,
    require_kinds,
)
from privacy_pipeline.dp.training.private_model import PrivateModel
from privacy_pipeline.errors import BadInputError

_MEMORY_CAP = 256 * 2**20
_LARGEST_BATCH = 6144  # Poisson batches of 4096 expected examples fit in one piece


def make_private(
    model: Any,
    plan: PrivacyPlan,
    *,
    optimizer: Any = None,
    loss: Any = None,
    loss_weights: Any = None,
    seed: int | None = None,
    virtual_batch_size: int = _LARGEST_BATCH,
    memory_cap: int = _MEMORY_CAP,
    state_dir: Path | str | None = None,
    binding: str = "",
    history: PrivacyHistory | Literal["public", "none"] | None = None,
    remember: bool = True,
    data_name: str = "",
) -> PrivateModel:
    """Put a Keras model under a privacy plan.

    >>> import numpy as np, tensorflow as tf
    >>> import privacy_pipeline as pp
    >>> x, y = np.ones((40, 2), np.float32), np.ones((40, 1), np.float32)
    >>> model = tf.keras.Sequential([tf.keras.layers.Input((2,)), tf.keras.layers.Dense(1)])
    >>> plan = pp.PrivacyPlan.calibrated(
    ...     units=40, expected_batch_size=10, steps=4, noise_multiplier=2.0, delta=1e-3, clipping_norm=1.0
    ... )
    >>> execution = pp.make_private(model, plan, optimizer="sgd", loss="mse").fit(x, y)
    >>> str(execution).partition(";")[0]
    'epsilon 0.786 at delta 0.001, unit example'

    Args:
        model: built Keras model: functional, Sequential or subclassed.
        plan: the plan.
        optimizer: Keras optimizer or its name; without it, the one that the model was compiled with.
        loss: Keras loss, its name, or a function that gives one number for each example; without it, the compiled one.
        loss_weights: weights of several outputs' losses; with the compiled loss, the compiled ones.
        seed: fixes all randomness, and with it voids the guarantee; for tests.
        virtual_batch_size: examples that are worked on at once, up to 8,192; larger batches are cut. Changes memory
            alone.
        memory_cap: bytes for per-example gradients of layers without a clipping rule.
        state_dir: folder of the run's key and checkpoints. A run that is killed goes on from there, to the same
            weights bit for bit, when the same call is made again; `destroy_state` ends that. Without it, the key lives
            in memory alone.
        binding: what else the key must never be used across, such as a digest of the user's code. Plan, graph of a
            step, optimizer, data, software and processor are bound in any case; what callbacks do to a step that is
            made again is compared.
        history: what is known of the weights, where it cannot be found: their `PrivacyHistory`; "public" where they
            were made from public data alone; "none" where they were made from data that nothing protects, and no
            guarantee holds. New weights, and weights that a private training left, need none.
        remember: whether the weights are known again by their bits, in this process and by a file in the folder of
            `history_store`; not needed where a ledger accounts for the data.
        data_name: what the history calls the data. Trainings compose whatever their names are.

    Raises:
        BadInputError: the model cannot be trained privately, there is no optimizer or loss, or its learning rate is
            out of range.
    """
    require_kinds(model, plan)
    require_arguments(binding=binding, data_name=data_name, state_dir=state_dir, remember=remember)
    require_whole(seed=seed, virtual_batch_size=virtual_batch_size, memory_cap=memory_cap)
    require_private(model)
    require_keras_step(model)
    of_model = (optimizer is None, loss is None)
    optimizer = optimizer if optimizer is not None else getattr(model, "optimizer", None)
    if optimizer is None:
        raise BadInputError("an optimizer is needed", fix='make_private(model, plan, optimizer="sgd", loss=...)')
    optimizer = keras_optimizer(optimizer, steps=plan.steps)
    if loss is None:
        loss = getattr(model, "loss", None)
        compiled = getattr(model, "compiled_loss", None)
        loss_weights = loss_weights if loss_weights is not None else getattr(compiled, "_user_loss_weights", None)
    if not (virtual_batch_size and 1 <= virtual_batch_size <= LARGEST and memory_cap and memory_cap >= 1):
        raise BadInputError(f"virtual_batch_size must lie between 1 and {LARGEST}, and memory_cap be 1 or more")
    return PrivateModel(
        model=model,
        plan=plan,
        optimizer=optimizer,
        loss=loss,
        loss_weights=loss_weights,
        seed=seed,
        virtual_batch_size=virtual_batch_size,
        memory_cap=memory_cap,
        state_dir=None if state_dir is None else Path(state_dir),
        binding=binding,
        history=_stated(history),
        remember=remember,
        data_name=data_name,
        compiled=(
            model.optimizer if of_model[0] else None,
            getattr(model, "compiled_loss", None) if of_model[1] else None,
        ),
    )


def _stated(history: Any) -> PrivacyHistory | None:
    """Return what the user states of weights.

    Raises:
        BadInputError: it is neither a history nor one of the two words.
    """
    if history is None or isinstance(history, PrivacyHistory):
        return history
    if isinstance(history, str) and history in ("public", "none"):
        return PrivacyHistory(origin=cast(Literal["public", "none"], history))
    raise BadInputError(
        f"history={history!r:.60} is not a history of weights",
        fix='PrivacyHistory.load(path), or "public" if public data alone made them, or "none" if nothing protects what '
        "did (then no guarantee holds)",
    )
