"""Kafka by the batch: one writer, one partitioner, one place that creates topics."""
