"""The DP-SGD engine: plan, sampler, clipping, noise, validator and a Keras-like trainer.

    plan = PrivacyPlan.calibrated(units=60_000, expected_batch_size=256, epochs=15, epsilon=1.0, delta=1e-5,
                                  clipping_norm=1.0)
    private = make_private(model, plan, optimizer="adam", loss="sparse_categorical_crossentropy")
    execution = private.fit(x, y)

Names load on first use (`__init__.pyi` lists them): a plan can be made, and its epsilon read, without TensorFlow.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
