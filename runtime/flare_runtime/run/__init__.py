"""A run over many cases: files in, masks, records and a report out."""
