"""Files of what happened, in JSON lines, CSV or Parquet, and a log put in the order of time on disk."""
