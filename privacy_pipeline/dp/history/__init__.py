"""Where the weights of a model come from, and what their trainings cost together."""
