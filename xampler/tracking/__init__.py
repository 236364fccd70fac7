"""MLflow: runs and the model registry. Only this package imports mlflow."""
