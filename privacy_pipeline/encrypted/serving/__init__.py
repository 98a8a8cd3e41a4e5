"""The service of private prediction, and the weights provider."""
