"""What describes the process that trains."""
