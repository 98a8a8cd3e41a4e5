"""Privacy-preserving machine-learning pipelines on TensorFlow Extended.

    import privacy_pipeline as pp

    pp.check("config.yaml")     # what a run would cost; nothing is spent
    done = pp.run("config.yaml")
    done.record                 # what is guaranteed, and by which assumptions

Names load on first use (`__init__.pyi` lists them): TensorFlow is not imported before something needs it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
