"""Plain against private predictions on the eval split: what is measured, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy_pipeline.config.models.encrypted import EncryptedSection
from privacy_pipeline.encrypted.evaluation import own_parties
from privacy_pipeline.encrypted.evaluation.measured import BatchTimes, EncryptedEvaluation
from privacy_pipeline.encrypted.model import fixed_point, model_format
from privacy_pipeline.encrypted.model.fixed_point import Proof
from privacy_pipeline.encrypted.model.inputs import require_within
from privacy_pipeline.encrypted.model.model_format import PrivateModel
from privacy_pipeline.encrypted.model.threat_model import Protection, ThreatModel, simulated
from privacy_pipeline.encrypted.sandbox import environment
from privacy_pipeline.errors import BadInputError, PipelineError
from privacy_pipeline.files.bounded import json_value
from privacy_pipeline.files.bounded_arrays import open_array
from privacy_pipeline.processes.programs import arguments_of
from privacy_pipeline.tasks.probabilities import average_precision, bin_sums, calibration_error, losses

BATCHES = (1, 128, 1024)  # the largest evaluates the split
_SECONDS_PER_ROW, _SECONDS_TO_START = 1.0, 900.0

Array = NDArray[Any]


def require_way(section: EncryptedSection) -> None:
    """Refuse a config that does not state how the eval split is predicted privately, or whose parties are not usable.

    Raises:
        BadInputError: that is so; names what is missing.
    """
    if section.parties is not None:
        own_parties.require_usable(section.parties)
    elif not section.simulate:
        raise BadInputError(
            "training.encrypted: it does not name the parties that predict the eval split privately; all parties in "
            "one process would protect nothing",
            fix="set `parties: DIR` (of `privacy-pipeline encrypted init-parties DIR`), or `simulate: true`: then all "
            "are in one process, and the record states `inference_protection: simulated`",
        )


def protection_of(section: EncryptedSection) -> Protection:
    """Return what protects private predictions under this config: what the record states, and the evaluation must be.

    Raises:
        BadInputError: the config does not state how to evaluate, or its parties.yaml is missing or broken.
    """
    if section.parties is not None:
        return own_parties.read(section.parties).threat_model.protection
    require_way(section)
    return simulated().protection


def simulate(
    folder: Path,
    *,
    inputs: Mapping[str, Array],
    labels: Array,
    plain: Array,
    work: Path,
    batches: Sequence[int] = BATCHES,
) -> EncryptedEvaluation:
    """Evaluate with all parties in one process of the environment of TF-Encrypted.

    Args:
        folder: the converted model.
        inputs: the eval split by input name, each [rows, ...].
        labels: 0 or 1, [rows, 1].
        plain: logits of the plain model, [rows, 1].
        work: scratch folder.
        batches: sizes that are timed; the largest evaluates the split.

    Returns:
        The EncryptedEvaluation.

    Raises:
        BadInputError: a layer overflows, a row is outside of its inputs' ranges, or the environment is not set up.
        PipelineError: the private evaluation failed, or its logits are not numbers.
    """
    digest = model_format.digest_of(folder)
    model = model_format.load(folder, digest=digest)
    proof = require_proven(model, inputs)
    work.mkdir(parents=True, exist_ok=True)
    names = [one.name for one in model.inputs]
    np.savez(work / "inputs.npz", **{name: inputs[name] for name in names})
    job = {"model": str(folder), "digest": digest, "batches": list(batches), "work": str(work)}
    (work / "job.json").write_text(json.dumps(job))
    limit = _SECONDS_TO_START + _SECONDS_PER_ROW * len(labels)
    program = arguments_of("privacy_pipeline.encrypted.worker.evaluate")
    environment.run([*program, str(work / "job.json")], timeout=limit)
    private = open_array(work / "logits.npy", fix="try again")
    measured = json_value((work / "measured.json").read_text())
    return compare(
        plain=plain,
        private=private,
        labels=labels,
        model=digest,
        proof=proof,
        batches=[BatchTimes.model_validate(one) for one in measured],
        threat_model=simulated(),
    )


def require_proven(model: PrivateModel, inputs: Mapping[str, Array]) -> Proof:
    """Return what is proven of a network for all rows within its inputs' ranges, and that these rows are among them.

    Raises:
        BadInputError: a layer overflows, or a row is not; names it.
    """
    proof = fixed_point.prove(model)
    require_within(model, inputs, rows=len(next(iter(inputs.values()))), where="row {} of the eval split".format)
    return proof


def compare(
    *,
    plain: Array,
    private: Array,
    labels: Array,
    model: str,
    proof: Proof,
    batches: list[BatchTimes],
    threat_model: ThreatModel,
) -> EncryptedEvaluation:
    """Return the evaluation of the two kinds of logits, each [rows, 1].

    Raises:
        PipelineError: the logits have another shape, or are not numbers.
    """
    if private.shape != plain.shape or len(plain) != len(labels) or len(plain) == 0:
        raise PipelineError(f"private logits {private.shape} for plain ones {plain.shape} and {len(labels)} labels")
    if not (np.isfinite(private).all() and np.isfinite(plain).all()):
        raise PipelineError("a logit is not a number")
    errors = np.abs(private - plain)
    truth = labels.ravel() > 0.5
    positive = private.ravel() > 0
    private_auc = auc(private.ravel(), truth)
    undefined = {} if private_auc is not None else {"auc": "all rows have one class"}
    precision, recall = _share(positive & truth, positive), _share(positive & truth, truth)
    ones, probabilities = truth.astype(np.float64), np.exp(-np.logaddexp(0.0, -private.ravel().astype(np.float64)))
    if precision is None:
        undefined["precision"] = "no row was predicted positive"
    if recall is None:
        undefined["recall"] = undefined["pr_auc"] = "no row has the positive class"
    return EncryptedEvaluation(
        model=model,
        rows=len(plain),
        accuracy_plain=float(((plain.ravel() > 0) == truth).mean()),
        accuracy_encrypted=float((positive == truth).mean()),
        auc_plain=auc(plain.ravel(), truth),
        auc_encrypted=private_auc,
        precision_encrypted=precision,
        recall_encrypted=recall,
        pr_auc_encrypted=average_precision(truth, private.ravel()),
        log_loss_encrypted=float(losses(ones, probabilities).mean()),
        ece_encrypted=calibration_error(bin_sums(ones, probabilities)),
        undefined=undefined,
        agreement=float(((plain > 0) == (private > 0)).mean()),
        largest_logit_error=float(errors.max()),
        p99_logit_error=float(np.quantile(errors, 0.99)),
        logit_spread=float(plain.max() - plain.min()),
        range="proven",
        proven_error=proof.logit_error,
        widest_layer=proof.widest[0],
        widest_growth=proof.widest[1],
        batches=batches,
        threat_model=threat_model,
    )


def _share(part: Array, whole: Array) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None


def auc(scores: Array, truth: Array) -> float | None:
    """Return the area under the ROC curve by ranks (Mann-Whitney), ties counted half; None with only one class."""
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    total = float(ranks[inverse][truth].sum())
    return (total - positive * (positive + 1) / 2) / (positive * negative)
