"""`python -m workers.main train|validate|sweep|beat`: one process of the queue.

It starts itself anew without its settings in the environment: its ranks, which run a department's data through
libraries, could read their ancestors' environment.
"""

import argparse
import sys

from runtime.settings import exec_without_secrets, load

ROLES = ("train", "validate", "sweep", "beat")


def main(arguments: list[str]) -> None:
    """Become the worker; returns only by an exception."""
    parser = argparse.ArgumentParser(prog="python -m workers.main")
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--ready-fd", help="an inherited descriptor that gets a byte once the worker listens")
    options = parser.parse_args(arguments)
    ready = [options.ready_fd] if options.ready_fd else []
    exec_without_secrets(load(), [sys.executable, "-m", "workers.serve", options.role, *ready])


if __name__ == "__main__":
    main(sys.argv[1:])
