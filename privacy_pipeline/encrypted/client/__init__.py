"""The client of private prediction."""
