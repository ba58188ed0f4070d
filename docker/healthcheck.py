"""Exits with 0 if the role that runs in this container is well: what docker's HEALTHCHECK asks.

The server is asked at PERSONA_HTTP_PORT, the worker at PERSONA_WORKER_PORT, the mirror at PERSONA_MIRROR_PORT; one of
them listens, and must answer 200.
"""

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 3.0
PROBES = (
    ("PERSONA_HTTP_PORT", "8080", "/readyz"),
    ("PERSONA_WORKER_PORT", "8081", "/livez"),
    ("PERSONA_MIRROR_PORT", "8082", "/livez"),
)


def status(port: str, path: str) -> int:
    """The HTTP status of a probe; 0 where nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=TIMEOUT_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def main() -> int:
    """The exit code."""
    found = [status(os.environ.get(variable, usual), path) for variable, usual, path in PROBES]
    return 0 if 200 in found else 1


if __name__ == "__main__":
    sys.exit(main())
