"""The entry point: runs a command and turns its errors into one readable line and an exit code.

Exit codes: 0 done, 1 it failed (the message says why), 2 wrong usage, 130 interrupted with Ctrl-C.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from persona_stream.cli.commands import app
from persona_stream.vocabulary.errors import PersonaError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `argv` (default: the process's) and exit."""
    try:
        result = app(argv, result_action="return_value")
    except PersonaError as error:
        _fail(error.message, error.hint)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); closing quietly is what every Unix tool does.
        sys.stderr.close()
        sys.exit(EXIT_FAILED)
    except Exception as error:
        if not type(error).__module__.startswith("aiokafka."):
            raise
        _fail(f"Kafka: {type(error).__name__}: {error}.", "`persona-stream doctor` checks the connection.")
    sys.exit(result if isinstance(result, int) else 0)


def _fail(message: str, hint: str) -> NoReturn:
    print(f"persona-stream: {message}{' ' + hint if hint else ''}", file=sys.stderr)
    sys.exit(EXIT_FAILED)
