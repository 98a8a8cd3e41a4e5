"""Encrypted inference: three servers compute a model's logits from shares of rows, and none of them sees either.

    model = convert(keras_model)    # a network for the parties, with the proof of its error
    client = Client(...)            # shares rows out, and puts the logits together

Names load on first use (`__init__.pyi` lists them).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
