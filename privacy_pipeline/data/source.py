"""Everything that is asked of a dataset's files before TFX reads them."""

from privacy_pipeline.data.counting.cells import BadCell, locate
from privacy_pipeline.data.counting.counts import (
    SPLIT_ORDER,
    Contents,
    NeedsExampleGen,
    SplitCount,
    count_units,
    read_contents,
    require_one_key_type,
    row_digests,
    unit_keys,
)
from privacy_pipeline.data.counting.silos import count_silos
from privacy_pipeline.data.counting.survey import Survey, require_readable, survey
from privacy_pipeline.data.files import ALL, ResolvedSource, folders_of, resolve
from privacy_pipeline.data.reading.headers import check_headers

__all__ = [
    "ALL",
    "SPLIT_ORDER",
    "BadCell",
    "Contents",
    "NeedsExampleGen",
    "ResolvedSource",
    "SplitCount",
    "Survey",
    "check_headers",
    "count_silos",
    "count_units",
    "folders_of",
    "locate",
    "read_contents",
    "require_one_key_type",
    "require_readable",
    "resolve",
    "row_digests",
    "survey",
    "unit_keys",
]
