"""Why an answer was what it was: its state put together again from the log, and asked again."""
