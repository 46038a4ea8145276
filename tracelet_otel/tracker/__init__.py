"""From OTLP to one tracker: the interface that a tracker implements, and the exporter that calls it."""
