"""The one driver of rounds, for pipelines and experiments: key, cohorts, participation, checkpoints, what was spent."""
