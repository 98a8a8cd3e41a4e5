"""PrivacyGate: evaluation, privacy record and policy become one blessing."""
