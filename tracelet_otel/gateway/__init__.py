"""An OTLP server that delivers what many training runs send to the same backends as a run's own process."""
