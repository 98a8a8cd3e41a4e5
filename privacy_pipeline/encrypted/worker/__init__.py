"""What runs in the environment of TF-Encrypted: imports nothing but NumPy, TensorFlow 2.9 and TF-Encrypted."""
