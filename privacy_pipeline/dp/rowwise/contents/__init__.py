"""Sizes that ops compute: shapes, axes, paddings, as numbers that may depend on the number of rows.

To import this package registers what computes them.
"""

from privacy_pipeline.dp.rowwise.contents import arrays, numbers

__all__ = ["arrays", "numbers"]
