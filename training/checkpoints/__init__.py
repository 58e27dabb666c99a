"""Exact training state, local and in object storage."""
