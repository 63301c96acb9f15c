"""`python -m api.main [UVICORN'S OPTIONS]`: the API as a process of its own.

It starts itself anew without its settings in the environment: other processes of its user, a worker's ranks among
them, could read it there.
"""

import sys

from fastapi import FastAPI

from api.app import create_app
from runtime import logs, settings
from runtime.wiring import build
from signing.keys import SigningKeyUnusable


def create() -> FastAPI:
    """Load, wire, serve. Nothing connects before the first request; without its key the API does not start."""
    settings.hide_memory()
    loaded = settings.load()
    logs.configure(loaded.log_level)
    runtime = build(loaded)
    try:
        _ = runtime.signing_key
    except SigningKeyUnusable as unusable:
        raise SystemExit(str(unusable)) from None
    return create_app(runtime)


if __name__ == "__main__":
    uvicorn = [sys.executable, "-m", "uvicorn", "--factory", "api.main:create", "--no-access-log"]
    settings.exec_without_secrets(settings.load(), [*uvicorn, *sys.argv[1:]])
