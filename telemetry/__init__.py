"""telemetry: event streaming for Python training code, under a Task SDK."""
