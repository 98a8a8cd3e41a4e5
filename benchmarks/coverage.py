"""Measure how often each interval misses its true value, and each gate errs, on small and skewed data.

    python -m benchmarks.coverage [--samples N]

Prints the worst case of each claim, and exits with 1 if a claim is exceeded by more than chance. The cases are rare and
nearly certain classes, values that are nearly all zero, ties, 5 to 100,000 rows, and noise from 0.3 rows to ten times
the rows. Noise is discrete Gaussian, drawn by inversion. The numbers are those of the product's own functions. Exact
values are computed and not simulated.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import numpy as np

from benchmarks.coverage_cases import LEVEL_OF_AN_END, Case, Floats, Random, discrete_gaussian, missed, pmf
from benchmarks.noise_check_odds import chance_of_refusal, least_off
from privacy_pipeline.accounting.release_plan import default_threshold_delta
from privacy_pipeline.confidence import Sampling, upper_quantile
from privacy_pipeline.dp.attacks.guessing_bounds import bound_from_scores
from privacy_pipeline.dp.attacks.membership import auc_of
from privacy_pipeline.dp.checks.noise_check import DRAWS, LEVEL
from privacy_pipeline.releases import estimates, noise
from privacy_pipeline.releases.histograms import logarithmic_edges, quantile_interval, value_range
from privacy_pipeline.releases.queries import UNIT_OF_FIXED_POINT, Histogram, Moments
from privacy_pipeline.releases.release import Noisy

_AGAIN = 3


SHARES = (0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.99)
ROWS = (5, 20, 100, 1000, 100_000)
NOISES = (0.3, 1.0, 5.0, 50.0)


def ratios(random: Random, samples: int, *, shares: Iterable[float], rows: Iterable[int], noises: Iterable[float],
           cells: Iterable[int] = (1, 2), bounds: Iterable[int] = (1, 4)) -> Iterator[Case]:  # fmt: skip
    """Yield accuracy (two counts each), precision and recall (one each), and the gate, which uses the lower end."""
    for p, n, scale, count, bound in itertools.product(shares, rows, noises, cells, bounds):
        if bound > n:
            continue
        total = n // bound * bound
        sampling = estimates.sampling_of_ratio(count, count, scale=scale, bound=bound)
        noise_of = [discrete_gaussian(random, scale, (count, samples)).sum(0) for _ in range(2)]
        drawn = bound * random.binomial(n // bound, p, samples).astype(np.float64)  # rows of a unit are alike
        held = np.full(samples, round(p * n))
        where = f"share {p:g}, {n:,} rows, noise {scale:g}, {count} count(s) each, {bound} row(s) a unit"
        again = partial(ratios, shares=(p,), rows=(n,), noises=(scale,), cells=(count,), bounds=(bound,))
        for of, hits, rows_of, share in (
            ("the population", drawn, total, p),
            ("these very rows", held, n, held[0] / n),
        ):
            low, high = missed(hits + noise_of[0], rows_of - hits + noise_of[1], share, sampling=sampling)
            yield Case(claim=f"gate: a model passes that misses its threshold on {of}", most=LEVEL_OF_AN_END, found=low,
                       samples=samples, where=where, again=again)  # fmt: skip
            yield Case(claim=f"accuracy, precision, recall of {of}", most=1 - estimates.CONFIDENCE, found=low + high,
                       samples=samples, where=where, again=again)  # fmt: skip


def values_of(kind: str, random: Random, shape: tuple[int, int]) -> tuple[Floats, float]:
    """Return values in [-1, 1], [samples, rows], and their mean."""
    if kind == "ends":
        return np.where(random.random(shape) < 0.02, 1.0, -1.0), -0.96
    if kind == "nearly all zero":
        return np.where(random.random(shape) < 0.01, random.uniform(0, 1, shape), 0.0), 0.005
    if kind == "one end, rarely near it":
        return np.where(random.random(shape) < 0.04, -0.9, -1.0), -0.996
    return random.uniform(-1, 1, shape), 0.0


KINDS = ("ends", "nearly all zero", "one end, rarely near it", "uniform")


def means(random: Random, samples: int, *, rows: Iterable[int], noises: Iterable[float],
          kinds: Iterable[str] = KINDS) -> Iterator[Case]:  # fmt: skip
    """Yield means of clamped values."""
    for kind, n, scale in itertools.product(kinds, rows, noises):
        some = min(samples, max(500, 4_000_000 // n))
        values, mean = values_of(kind, random, (some, n))
        fixed = np.rint(values * UNIT_OF_FIXED_POINT).sum(axis=1) / UNIT_OF_FIXED_POINT
        total, count = (part + random.normal(0, scale, some) for part in (fixed, n))
        low, high = missed((count + total) / 2, (count - total) / 2, (1 + mean) / 2,
                           sampling=estimates.sampling_of_mean(scale))  # fmt: skip
        yield Case(claim="means", most=1 - estimates.CONFIDENCE, found=low + high, samples=some,
                   where=f"{kind}, {n:,} rows, noise {scale:g}",
                   again=partial(means, rows=(n,), noises=(scale,), kinds=(kind,)))  # fmt: skip


def counts(noises: Iterable[float]) -> Iterator[Case]:
    """Yield numbers of rows of a slice, the sum of four noisy counts; exact."""
    for scale in noises:
        reach = math.ceil(12 * scale) + 2
        one = pmf(scale, reach)
        four = np.convolve(np.convolve(one, one), np.convolve(one, one))
        numbers = np.arange(four.size) - four.size // 2
        interval = estimates.count(1e6, scale=2 * scale)
        out = four[(1e6 + numbers < interval.low) | (1e6 + numbers > interval.high)].sum()
        yield Case(claim="numbers of rows", most=1 - estimates.CONFIDENCE, found=float(out),
                   samples=0, where=f"noise {scale:g}")  # fmt: skip


def totals(random: Random, samples: int, *, rows: Iterable[int], noises: Iterable[float]) -> Iterator[Case]:
    """Yield sums of clamped values."""
    query = Moments(name="m", column="x", minimum=0.0, maximum=10.0)
    for n, scale in itertools.product(rows, noises):
        values = np.where(random.random(n) < 0.05, random.uniform(0, 10, n), 0.0)
        cells = query.contribution([{"x": float(value)} for value in values])
        draws = np.rint(random.normal(0, scale * UNIT_OF_FIXED_POINT, (samples, 2))).astype(np.int64)
        errors = 0
        for one, other in draws.tolist():
            noisy = {"sum": cells["sum"] + one, "count": cells["count"] + other}
            found = estimates.total(Noisy(query=query, values=noisy, scale=scale * UNIT_OF_FIXED_POINT, threshold=None))
            errors += not found.low <= values.sum() <= found.high
        yield Case(claim="sums", most=1 - estimates.CONFIDENCE, found=errors / samples, samples=samples,
                   where=f"nearly all zero, {n:,} rows, noise {scale:g}",
                   again=partial(totals, rows=(n,), noises=(scale,)))  # fmt: skip


def histogram_values(kind: str, random: Random, rows: int) -> Floats:
    """Return values of a column whose range is unknown."""
    if kind == "nearly all zero":
        return np.where(random.random(rows) < 0.03, random.lognormal(3, 2, rows), 0.0)
    if kind == "ties":
        return random.choice([1.0, 2.0, 64.0], rows, p=[0.5, 0.25, 0.25])
    if kind == "one value":
        return np.full(rows, 7.0)
    return random.normal(0, 50, rows)


HISTOGRAMS = ("nearly all zero", "ties", "one value", "normal")


def histograms(random: Random, samples: int, *, rows: Iterable[int], noises: Iterable[float],
               kinds: Iterable[str] = HISTOGRAMS) -> Iterator[Case]:  # fmt: skip
    """Yield quantiles and ranges over powers of two of both signs."""
    query = Histogram(name="h", column="x", edges=logarithmic_edges())
    cells = query.cells
    for kind, n, scale in itertools.product(kinds, rows, noises):
        values = np.sort(histogram_values(kind, random, n))
        held = np.bincount(np.searchsorted(query.edges, values, side="right"), minlength=len(cells))
        wrong, quantiles = dict.fromkeys((0.01, 0.25, 0.5, 0.95), 0), {}
        for share in wrong:
            quantiles[share] = values[max(0, math.ceil(share * n - 1e-9) - 1)]
        least = 1 + scale * upper_quantile(1e-3 / len(cells))
        empty = full = 0
        draws = discrete_gaussian(random, scale, (samples, len(cells))).astype(np.int64)
        for added in held + draws:
            noisy = Noisy(
                query=query, values=dict(zip(cells, added.tolist(), strict=True)), scale=scale, threshold=None
            )
            for share, truth in quantiles.items():
                found = quantile_interval(noisy, share)
                wrong[share] += not (found.low <= truth < found.high or truth == found.high == math.inf)
            found_range = value_range(noisy)
            low, high = found_range or (math.inf, -math.inf)
            empty += found_range is not None and (
                _none_between(values, query.edges, low, first=True)
                or _none_between(values, query.edges, high, first=False)
            )
            inside = np.flatnonzero(held >= 2 * least)
            full += inside.size > 0 and (
                found_range is None
                or low > query.edges[max(int(inside[0]) - 1, 0)]
                or high < query.edges[min(int(inside[-1]), len(query.edges) - 1)]
            )
        where = f"{kind}, {n:,} rows, noise {scale:g}"
        again = partial(histograms, rows=(n,), noises=(scale,), kinds=(kind,))
        for share, errors in wrong.items():
            yield Case(claim="quantiles, to within edges", most=1 - estimates.CONFIDENCE, found=errors / samples,
                       samples=samples, where=f"share {share:g}, {where}", again=again)  # fmt: skip
        yield Case(claim="ranges: an end has no value beside it", most=1e-3, found=empty / samples, samples=samples,
                   where=where, again=again)  # fmt: skip
        beyond = 1e-3 * max(1, inside.size) / len(cells)
        yield Case(claim="ranges: an interval of twice the least count is outside", most=beyond, found=full / samples,
                   samples=samples, where=where, again=again)  # fmt: skip


def _none_between(values: Floats, edges: Sequence[float], end: float, *, first: bool) -> bool:
    """Return whether the outermost interval of a range, or the part beyond all edges, has no value."""
    place = edges.index(end)
    low = -math.inf if first and place == 0 else edges[place] if first else edges[place - 1]
    high = edges[place + 1] if first else math.inf if place == len(edges) - 1 else edges[place]
    return not bool(((values >= low) & (values < high)).any())


def losses(kind: str, random: Random, members: int, others: int) -> tuple[Floats, Floats, float]:
    """Return losses of both sides, and the AUC of their distributions."""
    if kind == "nearly told apart":
        return random.uniform(0, 1, members), random.uniform(0.95, 1.95, others), 1 - 0.05**2 / 2
    if kind == "all alike but a few members":
        return np.where(random.random(members) < 0.01, 0.0, 0.5), np.full(others, 0.5), 0.505
    if kind == "members below or above all":
        return np.where(random.random(members) < 0.97, 0.0, 1.0), random.uniform(0.4, 0.6, others), 0.97
    return random.exponential(size=members), random.exponential(size=others), 0.5


LOSSES = ("nearly told apart", "all alike but a few members", "members below or above all", "chance")


def aucs(random: Random, samples: int, *, sizes: Iterable[tuple[int, int]],
         kinds: Iterable[str] = LOSSES) -> Iterator[Case]:  # fmt: skip
    """Yield the AUC of the membership attack."""
    for kind, (members, others) in itertools.product(kinds, sizes):
        some = min(samples, max(500, 20_000_000 // (members + others)))
        found, truth = np.empty(some), 0.0
        for number in range(some):
            ours, theirs, truth = losses(kind, random, members, others)
            found[number] = auc_of(ours, theirs)
        pairs = min(members, others)
        low, high = missed(found * pairs, (1 - found) * pairs, truth, sampling=Sampling(simple=False))
        yield Case(claim="AUC of the membership attack", most=1 - estimates.CONFIDENCE, found=low + high, samples=some,
                   where=f"{kind}, {members:,} members and {others:,} others",
                   again=partial(aucs, sizes=((members, others),), kinds=(kind,)))  # fmt: skip


def audits(random: Random, samples: int, *, canaries: Iterable[int], epsilons: Iterable[float] = (0.1, 1.0, 4.0),
           deltas: Iterable[float] = (0.0, 1e-5)) -> Iterator[Case]:  # fmt: skip
    """Yield how often an audit refuses a sound mechanism: randomised response, which uses up all of its epsilon."""
    for count, epsilon, delta in itertools.product(canaries, epsilons, deltas):
        errors = 0
        for _ in range(samples):
            included = random.random(count) < 0.5
            flipped = random.random(count) < 1 / (1 + math.exp(epsilon))
            given_away = random.random(count) < delta
            scores = np.where(given_away, 2.0, 1.0) * np.where(included ^ (flipped & ~given_away), 1.0, -1.0)
            scores += random.uniform(0, 1e-3, count)
            errors += bound_from_scores(scores, included, delta=delta, confidence=0.95).lower_bound > epsilon + 1e-9
        yield Case(claim="audit: a sound mechanism is refused", most=0.05, found=errors / samples, samples=samples,
                   where=f"randomised response, epsilon {epsilon:g}, delta {delta:g}, {count:,} canaries",
                   again=partial(audits, canaries=(count,), epsilons=(epsilon,), deltas=(delta,)))  # fmt: skip


def checks_of_noise() -> Iterator[Case]:
    """Yield the exact chance that a sound run is stopped. Gaussian noise has the level by definition."""
    for variance, numbers in itertools.product((0.25, 1.0, 4.0, 16.0), (256, 1024, 16384)):
        yield Case(claim="check of noise: a sound run with noise of whole numbers is stopped", most=5e-9,
                   found=chance_of_refusal(variance, numbers), samples=0,
                   where=f"variance {variance:g}, {numbers:,} numbers")  # fmt: skip


def all_cases(samples: int) -> Iterator[Case]:
    """Yield the whole grid."""
    random = np.random.default_rng(20)
    yield from ratios(random, samples, shares=SHARES, rows=ROWS, noises=NOISES)
    yield from means(random, samples, rows=(5, 100, 10_000), noises=(0.3, 5.0, 50.0))
    yield from counts((0.1, 0.3, 0.5, 1.0, 3.0, 50.0))
    yield from totals(random, samples, rows=(5, 1000), noises=(0.3, 50.0))
    yield from histograms(random, max(200, samples // 4), rows=(5, 300, 100_000), noises=(0.3, 5.0, 50.0))
    yield from aucs(random, samples, sizes=((2, 2), (5, 50), (50, 5), (60, 90), (1000, 1000)))
    yield from audits(random, max(200, samples // 8), canaries=(50, 1000))
    yield from checks_of_noise()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--samples", type=int, default=1000, help="Samples of each case; ten times as many of the worst cases."
    )
    samples = parser.parse_args().samples
    cases = list(all_cases(samples))
    print("| claim: chance of an error | at most | worst found | samples | cases | worst case |")
    print("|---|---|---|---|---|---|")
    for claim in dict.fromkeys(case.claim for case in cases):
        own = [case for case in cases if case.claim == claim]
        if any(case.above_chance(len(own)) for case in own):
            raise SystemExit(f"not true: {claim}")
        # The worst of many cases is partly bad luck, so it is repeated with fresh samples.
        several = sorted(own, key=lambda case: case.found / case.most)[-_AGAIN:]
        tried = [case.looked_at_again(np.random.default_rng(21), 10 * samples) for case in several]
        worst = max(tried, key=lambda case: case.found / case.most)
        tries = f"{worst.samples:,}" if worst.samples else "exact"
        print(f"| {claim} | {worst.most:.3g} | {worst.found:.3g} | {tries} | {len(own)} | {worst.where} |", flush=True)
    print("\n| draws of the check of noise | off by, to pass every other time | off by, to pass once in 10^9 |")
    print("|---|---|---|")
    for draws in (DRAWS, DRAWS // 8, DRAWS // 16, 1024, 256):
        print(f"| {draws:,} | {least_off(draws, 0.5):.1%} | {least_off(draws, LEVEL):.1%} |")
    print("\n| delta of a vocabulary | least count, in deviations of the noise |\n|---|---|")
    for delta in (1e-4, 1e-5, 1e-6, 1e-8):
        distance = default_threshold_delta(epsilon=1.0, delta=delta)
        print(f"| {delta:g} | {noise.threshold_for(distance=distance, bound=1, scale=100.0) / 100:.2f} |")


if __name__ == "__main__":
    main()
