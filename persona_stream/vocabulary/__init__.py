"""What every room speaks: events, topics, settings and errors. Imports nothing of the other rooms."""
