"""Runs: started, resumed, and the process that executes their nodes."""
