"""Release a count and a mean of a table with differential privacy: plan, exact sums, noise.

Nothing is registered here, so nothing is charged. A pipeline does both: see `preprocessing.dp`.
"""

from __future__ import annotations

import apache_beam as beam
import numpy as np

from privacy_pipeline.accounting.plan import Relation
from privacy_pipeline.releases import estimates
from privacy_pipeline.releases.beam_sums import ExactSums
from privacy_pipeline.releases.queries import Counts, Moments
from privacy_pipeline.releases.release import Noisy, plan_release

PEOPLE = 5_000


def show(answers: dict[str, Noisy]) -> None:
    """Print the noisy answers with their confidence intervals."""
    rows, age = answers["rows"], answers["age"]
    (noisy,) = rows.values.values()
    for name, found in (("people", estimates.count(noisy, scale=rows.scale)), ("mean age", estimates.mean(age))):
        print(f"{name}: {found.value:.1f} (95 % between {found.low:.1f} and {found.high:.1f})")


def main() -> None:
    """Release what epsilon 0.5 buys of five thousand made-up people."""
    ages = np.random.default_rng(0).integers(17, 91, PEOPLE)
    release = plan_release(
        [Counts(name="rows"), Moments(name="age", column="age", minimum=17, maximum=90)],
        kind="dp_statistics",
        unit="row",
        contribution_bound=1,
        relation=Relation.ZERO_OUT,
        units=PEOPLE,
        epsilon=0.5,
        delta=1e-6,
    )
    with beam.Pipeline() as pipeline:
        rows = pipeline | beam.Create([(None, {"age": float(age)}) for age in ages])
        # The exact sums go straight into the noise: nothing before it is stored.
        _ = rows | ExactSums(release) | beam.Map(release.noised) | beam.Map(show)


if __name__ == "__main__":
    main()
