"""How it is told: run journal, upload, MLflow, TensorBoard."""
