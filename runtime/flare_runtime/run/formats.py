"""How the JSON files of a run name what they are; apart from `record`, which is slow to import."""

RECORD_FORMAT = "flare-lite record"
REPORT_FORMAT = "flare-lite report"
