"""Rules for each op, by which the rows of a batch stay apart."""
