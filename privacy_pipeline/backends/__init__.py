"""Trainer backends behind one protocol and one registry. What needs TensorFlow is imported where it is first used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
