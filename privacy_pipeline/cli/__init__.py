"""The command line: commands parse, call and print; nothing here decides."""
