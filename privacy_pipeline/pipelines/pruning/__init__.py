"""Removal of what runs left in a workspace."""
