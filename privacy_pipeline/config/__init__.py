"""The YAML file as typed models, with overrides and errors that name the line."""
