"""`python -m workers.main train|validate|sweep|seal|beat`: one process of the queue, or the sealer beside it.

It starts itself anew without its settings in the environment: its ranks, which run a department's data through
libraries, could read their ancestors' environment.
"""

import argparse
import sys
from importlib.util import find_spec

from domain.plans import Quantisation
from runtime.settings import Settings, exec_without_secrets, load
from signing.keys import SigningKey, SigningKeyUnusable

ROLES = ("train", "validate", "sweep", "seal", "beat")


def main(arguments: list[str]) -> None:
    """Become the worker; returns only by an exception. Raises SystemExit where it could not do what it is set to."""
    parser = argparse.ArgumentParser(prog="python -m workers.main")
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--ready-fd", help="an inherited descriptor that gets a byte once the worker listens")
    options = parser.parse_args(arguments)
    ready = [options.ready_fd] if options.ready_fd else []
    settings = load()
    if options.role == "train":
        _check(settings)
    exec_without_secrets(settings, [sys.executable, "-m", "workers.serve", options.role, *ready])


def _check(settings: Settings) -> None:
    # Not where settings are read: only the machine that trains must have it.
    if settings.quantisation is not Quantisation.NONE and find_spec("bitsandbytes") is None:
        raise SystemExit(
            f"TSUGIKI_QUANTISATION is {settings.quantisation}, and bitsandbytes is not installed:"
            " pip install 'tsugiki[quantised]'"
        )
    try:
        # Now, and not after hours of training.
        SigningKey.load(settings.signing_key_file)
    except SigningKeyUnusable as unusable:
        raise SystemExit(str(unusable)) from None


if __name__ == "__main__":
    main(sys.argv[1:])
