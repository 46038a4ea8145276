"""What a delivery has still to send, in memory and on disk."""


class SpoolFullError(OSError):
    """A folder has reached its size limit: what is newest is not taken, so that the rest has no gap."""
