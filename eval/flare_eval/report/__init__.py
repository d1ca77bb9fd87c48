"""Reports: tables, charts and pictures."""
