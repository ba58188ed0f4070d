"""Stream and serving benchmarks: one file a contender, one process each, one table out."""

import persona_stream  # noqa: F401  # first: what it sets holds only for a numpy that is imported later
