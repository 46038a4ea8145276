"""Hooks into Lightning, of both packages."""
