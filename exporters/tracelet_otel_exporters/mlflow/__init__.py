"""MLflow: OTLP in, the calls of its store out."""
