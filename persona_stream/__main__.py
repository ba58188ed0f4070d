"""`python -m persona_stream` is the `persona-stream` command."""

from persona_stream.cli.main import main

main()
