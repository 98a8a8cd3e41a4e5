"""TensorFlow Privacy as an engine of DP-SGD, beside our own."""
