"""Real data to show the system with."""
