"""The environments that the wheel makes beside itself: packages of TFX and of TF-Encrypted refuse each other."""
