"""Folding the source topics again into a new generation of tables: docs/adr/0009-generations.md."""
