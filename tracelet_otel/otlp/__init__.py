"""OTLP requests: made of what was recorded, cut, read back, and written as JSON. Pure functions."""
