"""Everything that is asked of a dataset's files before TFX reads them."""

from privacy_pipeline.data.cells import BadCell, locate
from privacy_pipeline.data.counts import (
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
from privacy_pipeline.data.files import ALL, ResolvedSource, folders_of, resolve
from privacy_pipeline.data.headers import check_headers
from privacy_pipeline.data.silos import count_silos
from privacy_pipeline.data.survey import Survey, require_readable, survey

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
