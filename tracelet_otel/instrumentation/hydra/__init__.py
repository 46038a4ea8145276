"""Hooks into Hydra: the composed configuration of each job."""
