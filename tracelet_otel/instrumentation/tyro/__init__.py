"""Hooks into tyro: what a script has it parse."""
