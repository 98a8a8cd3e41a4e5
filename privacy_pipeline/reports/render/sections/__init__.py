"""Sections of the report: one module each, and one line each in `sections.registry`."""
