"""Reports, audits and what may be published, gathered from runs and ledger."""
