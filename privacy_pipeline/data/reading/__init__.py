"""Readers of CSV and TFRecord files."""
