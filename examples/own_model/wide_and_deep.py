"""A network of one's own for the pipeline of `config.yaml`: a linear part beside two dense layers."""

import tensorflow as tf


def build_model(context):
    """Return an uncompiled Keras model that ends in one logit."""
    layers = tf.keras.layers
    inputs = {name: tf.keras.Input(spec.shape, name=name, dtype=spec.dtype) for name, spec in context.inputs.items()}
    together = layers.Concatenate()([layers.Flatten()(given) for given in inputs.values()])
    deep = together
    for width in context.params["widths"]:
        deep = layers.Dense(width, activation="tanh")(deep)
    logit = layers.Add()([layers.Dense(1, use_bias=False)(together), layers.Dense(1)(deep)])
    return tf.keras.Model(list(inputs.values()), logit)
