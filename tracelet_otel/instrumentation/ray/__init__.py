"""Hooks into Ray's workers: which task is running, and whether the last one failed."""
