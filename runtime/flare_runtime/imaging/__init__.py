"""Images on disk and in memory: readers, geometry, masks."""
