"""Runs a user's `build_model` and `preprocessing_fn` where there is no data, and takes over what they made."""
