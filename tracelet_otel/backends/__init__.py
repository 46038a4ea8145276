"""From the name of a backend to its delivery."""
