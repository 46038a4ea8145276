"""What every other package stands on: the error boundary, the loggers, the entry points."""
