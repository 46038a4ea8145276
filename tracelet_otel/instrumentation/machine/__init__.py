"""Metrics of the machine, the process and GPUs."""
