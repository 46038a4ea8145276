"""AIM: OTLP in, the calls of its client or its storage out."""
