"""Private training: `make_private`, its steps, and what a killed run goes on from."""
