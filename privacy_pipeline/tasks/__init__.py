"""What a model is trained to answer: its loss, its metrics and what it serves. One module a task."""
