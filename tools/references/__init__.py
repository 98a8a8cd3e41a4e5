"""Write the pages below docs/reference from the config models, the commands and the docstrings.

python -m tools.references
"""
