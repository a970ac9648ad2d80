"""The sub-commands of `telemetry`, one file each."""
