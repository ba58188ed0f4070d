"""Stream and serving benchmarks: one file a contender, one process each, one table out."""
