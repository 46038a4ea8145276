"""What several trackers need."""
