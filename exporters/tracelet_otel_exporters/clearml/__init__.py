"""ClearML: OTLP in, requests of its API out."""
