"""Charges: a request is checked, reserved, started and committed."""
