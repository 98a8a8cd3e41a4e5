"""What the ledger holds now: registrations, budgets, policies, totals, and the rule of the filter."""
