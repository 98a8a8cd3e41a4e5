"""TFX components, one folder each: component.py declares, executor.py runs."""
