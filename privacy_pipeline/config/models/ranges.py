"""The ranges of the numbers that scale gradients and noise: one home for config and library.

Inside them float32 is exact enough at every place where norms are formed and noise is scaled (IEEE 754: normal numbers
from 2^-126 = 1.2e-38 to 3.4e38, with 24 bits each):

- squares of a clipping norm are normal numbers, so that what underflow may take from a gradient's squared norm is far
  below the square of any norm in the range;
- a standard deviation of noise in `NOISE_STDDEV`, times a standard normal number, is a normal number down to 1e-8
  standard deviations, and stays finite up to 1e8 of them;
- a learning rate times noise stays finite.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from privacy_pipeline.errors import BadInputError


def is_number(value: object) -> bool:
    """Whether a value, from wherever it comes, is a real number that float64 holds and that is finite."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Attributes:
        low: the least.
        high: the largest.
    """

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether a value is a number that lies inside; infinities and NaN do not."""
        return is_number(value) and self.low <= value <= self.high

    def complaint(self, value: float) -> str:
        """Return what is wrong with a number outside."""
        return f"must lie between {self.low:g} and {self.high:g}, found {value!r}"

    def require(self, name: str, value: float, *, fix: str = "") -> None:
        """Refuse a number outside.

        Args:
            name: field that the error names.
            value: what it holds.
            fix: what to do; default: where to set it.

        Raises:
            BadInputError: the number is outside.
        """
        if not self.holds(value):
            raise BadInputError(
                f"{name} {self.complaint(value)}", fix=fix or f"set it between {self.low:g} and {self.high:g}"
            )

    def checked(self, value: float) -> float:
        """Return the number, for a pydantic validator.

        Raises:
            ValueError: it is outside.
        """
        if not self.holds(value):
            raise ValueError(self.complaint(value))
        return value


CLIPPING_NORM = Range(1e-10, 1e10)
# Calibration looks up to 2^20. Far below 0.1 epsilon is too large to mean anything; at some point it is infinite.
NOISE_MULTIPLIER = Range(1e-6, 1e7)
LEARNING_RATE = Range(1e-10, 1e10)
# Of what is added, in one coordinate: multiplier times norm, over the expected batch where the mean is formed.
NOISE_STDDEV = Range(1e-30, 1e30)

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
ClippingNorm = Annotated[_Positive, AfterValidator(CLIPPING_NORM.checked)]
NoiseMultiplier = Annotated[_Positive, AfterValidator(NOISE_MULTIPLIER.checked)]
LearningRate = Annotated[_Positive, AfterValidator(LEARNING_RATE.checked)]
