"""How a model version is traded. Imports market and models, and never TensorFlow."""
