"""EncryptedEvaluator: plain against private predictions on the eval split."""
