"""A first config and schema for a user's own file."""
