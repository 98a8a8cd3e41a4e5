"""Rules for each op, by which the rows of a batch stay apart. To import this package registers all of them."""

from privacy_pipeline.dp.rowwise.rules import (
    rules_control,
    rules_elementwise,
    rules_gather,
    rules_lists,
    rules_neural,
    rules_product,
    rules_reduce,
    rules_shape,
    rules_slice,
)

__all__ = [
    "rules_control",
    "rules_elementwise",
    "rules_gather",
    "rules_lists",
    "rules_neural",
    "rules_product",
    "rules_reduce",
    "rules_shape",
    "rules_slice",
]
