"""Backend `otlp`: a Collector or any other OTLP receiver."""
