"""The workspace on disk, and ML Metadata."""
