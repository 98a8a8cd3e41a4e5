"""What is known of all rows before a run: counts, digests, violations of the schema."""
