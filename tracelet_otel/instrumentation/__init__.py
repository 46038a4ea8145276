"""Hooks into the libraries that training scripts log with."""
