"""Tables: one file a table: its key, value, fold and codec. Folds are pure: event time only, no I/O."""
