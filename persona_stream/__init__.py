"""persona-stream: one event log on Kafka, tables folded from it, answers while the user is still there."""
