"""Connections of parties and clients: certificates, mutual TLS, frames, limits."""
