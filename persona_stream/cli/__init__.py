"""The command line: every command, and what stands behind it."""
