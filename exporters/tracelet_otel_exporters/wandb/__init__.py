"""Weights & Biases: OTLP in, the rows and files of its run out."""
