"""What choosing the best of several trainings costs, and the random number of trainings that this rests on.

Repeat and select (Liu and Talwar 2019, "Private Selection from Private Candidates"; Papernot and Steinke 2022,
"Hyperparameter Tuning with Renyi Differential Privacy", theorems 2 and 6): the number of trials is drawn from a known
distribution, independently of the data, each trial is the same mechanism with fresh randomness, and the best output
alone is released. A trial here is: draw hyperparameters uniformly, train, and score on rows that the guarantee is not
about. The draw does not depend on the data, so given it the trial is a training, and with it the Renyi divergence is at
most that of the worst training; hence all have to have one event. The number of trials has to stay secret: anyone who
knows it sees a fixed number of trials, which may cost up to their composition.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Literal

from privacy_pipeline.errors import BadInputError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

    from privacy_pipeline.accounting.plan import Purpose
    from privacy_pipeline.config.models.pipeline import PipelineConfig
    from privacy_pipeline.config.models.tuning import TuningSection

Distribution = Literal["poisson", "geometric"]
# Shape of the truncated negative binomial in dp_accounting's event: 1 is geometric, infinite is Poisson.
_SHAPES = {"poisson": math.inf, "geometric": 1.0}


def repeat_and_select(trial: DpEvent, *, mean: float, distribution: Distribution) -> DpEvent:
    """Return the best of a random number of trials.

    Args:
        trial: event of one trial.
        mean: mean number of trials; 1 or more.
        distribution: of the number: geometric on 1, 2, ..., or Poisson on 0, 1, ....

    Raises:
        BadInputError: the mean is below 1, which the accountant does not support.
    """
    from dp_accounting.dp_event import RepeatAndSelectDpEvent

    if not 1 <= mean < math.inf:
        raise BadInputError(f"the mean number of trials must be 1 or more, found {mean!r}")
    return RepeatAndSelectDpEvent(trial, float(mean), _SHAPES[distribution])


def whole_event(section: TuningSection, trial: DpEvent) -> DpEvent:
    """Return the event of a whole tuning: of the selection, or of all trials together.

    Args:
        section: what is tuned, and how.
        trial: event of one trial.
    """
    from dp_accounting import SelfComposedDpEvent

    if section.distribution is None:
        return SelfComposedDpEvent(trial, section.trials)
    return repeat_and_select(trial, mean=section.trials, distribution=section.distribution)


def trial_event(whole: DpEvent) -> DpEvent:
    """Return the event of one trial of what `whole_event` made."""
    from dp_accounting import SelfComposedDpEvent
    from dp_accounting.dp_event import RepeatAndSelectDpEvent

    if not isinstance(whole, (SelfComposedDpEvent, RepeatAndSelectDpEvent)):
        raise ValueError(f"{type(whole).__name__} is not the event of a tuning")
    return whole.event


def purpose_of(config: PipelineConfig) -> Purpose:
    """Return the share of the budget that pays for a config's training: a tuning is paid as a whole by `tune`."""
    return "train" if config.training.tuning is None else "tune"


def draw_number(*, mean: int, distribution: Distribution) -> int:
    """Return a number of trials from the operating system's generator. It is never to be stored, printed or logged.

    Geometric: throws of a coin with chance 1 / mean, until one succeeds; exact. Poisson: inversion of the distribution
    function at a number of 53 bits, within 2^-50 of the distribution in total variation.

    Args:
        mean: mean number of trials.
        distribution: of the number.

    Returns:
        1 or more for geometric, 0 or more for Poisson.

    Raises:
        BadInputError: the mean is below 1, or so large that the Poisson weights underflow (above 700).
    """
    if mean < 1 or (distribution == "poisson" and mean > 700):
        raise BadInputError(f"a mean number of {mean} trials cannot be drawn", fix="between 1 and 700")
    if distribution == "geometric":
        number = 1
        while secrets.randbelow(mean) != 0:
            number += 1
        return number
    uniform = secrets.SystemRandom().random()
    number, weight = 0, math.exp(-mean)
    below = weight
    while uniform >= below and weight > 0:
        number += 1
        weight *= mean / number
        below += weight
    return number
