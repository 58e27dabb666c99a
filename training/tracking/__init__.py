"""Tracking: the run's journal, its upload, MLflow and TensorBoard."""
