"""Features: declared in a catalogue, compiled to a plan, computed by the column for the stream, serving and training.

catalogue.py   reads a catalogue (TOML): which features there are
*_kinds.py     the kinds that features are declared by
plan.py        compiles a catalogue: rows in, numbers out
blocks.py      what features are computed from
attributes.py  the catalogue of items by the column
"""
