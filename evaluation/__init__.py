"""Is it any good. Imports market and models, never training."""
