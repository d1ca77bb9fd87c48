"""Where arrays live: the device, its memory, and the array types."""
