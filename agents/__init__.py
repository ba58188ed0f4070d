"""Agents: one file an agent: what happens to a slice of events. Thin: decode, fold, emit."""
