"""`uvicorn --factory api.main:create`: the API as a process, from the environment's settings."""

from fastapi import FastAPI

from api.app import create_app
from runtime import logs, settings
from runtime.wiring import build


def create() -> FastAPI:
    """Load, wire, serve. Nothing connects before the first request."""
    loaded = settings.load()
    logs.configure(loaded.log_level)
    return create_app(build(loaded))
