"""The API as a process that is killed when it has committed a submit and not yet answered: argv[1] is its socket."""

import os
import signal
import sys

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.app import create_app
from runtime import wiring
from runtime.settings import load


class DiesBeforeItAnswers:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            # The route has returned, so its transaction is committed.
            if message["type"] == "http.response.start" and scope["method"] == "POST":
                os.kill(os.getpid(), signal.SIGKILL)
            await send(message)

        await self._app(scope, receive, sending)


if __name__ == "__main__":
    app = DiesBeforeItAnswers(create_app(wiring.build(load())))
    uvicorn.run(app, fd=int(sys.argv[1]), lifespan="off")
