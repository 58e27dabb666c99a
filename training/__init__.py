"""How it is learned. Imports market, models and evaluation."""
