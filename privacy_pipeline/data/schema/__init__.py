"""The public schema, and what a cell means under it."""
