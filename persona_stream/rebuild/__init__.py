"""Folding the source topics again into a new generation of tables: docs/adr/0008-generations.md."""
