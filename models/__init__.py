"""Models: the online learner, rankers trained offline, how both are judged, and the registry of versions."""
