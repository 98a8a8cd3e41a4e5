"""The sections of a config, one module each; `pipeline` puts them together."""
