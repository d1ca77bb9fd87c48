"""What a program sets up for its process: signals, streams, log, telemetry off."""
