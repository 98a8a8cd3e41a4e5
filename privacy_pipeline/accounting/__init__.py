"""Privacy events, accountants, calibration, the record and the budget ledger. No TensorFlow in here."""
