"""What a backend has not taken yet, on disk."""
