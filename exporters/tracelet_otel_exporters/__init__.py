"""Trackers and their OpenTelemetry exporters."""
