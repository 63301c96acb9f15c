"""`python -m workers.main train|validate|beat`: one worker process. `tsugiki worker` and `tsugiki up` start these.

It starts itself anew without its settings in the environment: its ranks, which run a department's data through
libraries, could read their ancestors' environment.
"""

import argparse
import sys

from runtime.settings import exec_without_secrets, load

ROLES = ("train", "validate", "beat")


def main(arguments: list[str]) -> None:
    """Become the worker; returns only by an exception."""
    parser = argparse.ArgumentParser(prog="python -m workers.main")
    parser.add_argument("role", choices=ROLES)
    role = parser.parse_args(arguments).role
    exec_without_secrets(load(), [sys.executable, "-m", "workers.serve", role])


if __name__ == "__main__":
    main(sys.argv[1:])
