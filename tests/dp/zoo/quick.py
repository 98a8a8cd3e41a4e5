"""Entries of the zoo that the fast suite runs, some of each kind; the others are marked slow."""

from __future__ import annotations

MIXING = frozenset(
    {
        # reductions
        *("mean_over_batch", "logsumexp_over_batch", "norm_of_the_batch", "softmax_over_batch", "cumsum_over_batch"),
        *("top_k_over_batch", "einsum_sum", "clip_over_whole_batch", "batch_moments", "fused_batch_norm"),
        *("batch_normalization_layer", "statistic_in_an_activation"),
        # moves
        *("reverse_batch", "sort_batch", "roll_batch", "gather_public", "gather_by_data", "relative_to_first"),
        *("shifted_concat", "reshape_moves_data", "matmul_with_transposed", "space_to_batch"),
        *("batch_as_matrix_inverse", "conv_over_batch", "attention_over_batch"),
        # loops, functions, gradients, groups
        *("while_carries_state", "nested_functions", "cond_on_batch", "segment_mean", "unique", "position_in_batch"),
        *("rnn_with_batch_for_time", "gradient_minus_its_mean", "hand_written_batch_norm_of_whole_numbers"),
        *("strings_joined_over_batch",),
        # in training, and hidden
        *("centred_behind_stop_gradient", "first_row_in_training", "token_mixup_in_training", "noise_scaled_by_batch"),
        *("only_beyond_20", "only_with_more_rows", "only_in_double_precision", "only_in_the_second_output"),
        *("only_the_gradient_of_a_sort",),
        # losses
        *("loss_class_frequency", "loss_mean_over_labels_present", "loss_triplet_batch_hard", "loss_over_batch_sum"),
        *("loss_pairwise_hinge", "loss_only_for_large_labels", "loss_of_keras_subclass"),
    }
)
HONEST = frozenset(
    {
        *("lstm", "transformer_block", "depthwise", "embedding_bag", "several_inputs_and_outputs", "dropout"),
        *("string_lookup", "sort_of_each_row", "gradient_reversal", "own_layer_with_layers"),
        "multi_hot_encoding",
        *("loss_focal", "loss_weighted_by_column", "loss_of_own_keras_class", "loss_categorical"),
    }
)
