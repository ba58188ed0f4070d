"""The command line, all of it. Each command imports what it runs only when run: `--help` stays quick."""

from persona_stream.cli import feature_commands, operate_commands, run_commands
from persona_stream.cli.root import app

__all__ = ["app", "feature_commands", "operate_commands", "run_commands"]
