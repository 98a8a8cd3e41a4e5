from .estimates import Interval, count, mean, ratio, total, vocabulary
from .evaluation import DpEvaluation
from .histograms import quantile, quantile_interval, value_range
from .queries import Counts, Histogram, Moments, Query, Vocabulary
from .release import Noisy, Release, plan_release, registered_release
from .single_rows import SingleRows
from .statistics import DpStatistics

__all__ = [
    "Counts",
    "DpEvaluation",
    "DpStatistics",
    "Histogram",
    "Interval",
    "Moments",
    "Noisy",
    "Query",
    "Release",
    "SingleRows",
    "Vocabulary",
    "count",
    "mean",
    "plan_release",
    "quantile",
    "quantile_interval",
    "ratio",
    "registered_release",
    "total",
    "value_range",
    "vocabulary",
]
