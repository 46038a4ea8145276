"""The command line ``tracelet-otel``: what is done outside of training."""
