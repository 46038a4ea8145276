"""Hooks into the TensorBoard writers, and decoders of their messages."""
