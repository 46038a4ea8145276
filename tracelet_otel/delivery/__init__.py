"""Delivery: what stands between a pipeline and one backend."""
