from . import keras_io as keras_io
