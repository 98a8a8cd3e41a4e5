"""A server of encrypted inference, and what it keeps for others to fetch."""
