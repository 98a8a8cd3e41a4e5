"""Ledgers, workspaces and reports of earlier releases, as those left them, under today's code."""
