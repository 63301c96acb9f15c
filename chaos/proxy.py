"""A TCP proxy between our processes and a server, with faults: an event loop in a thread of its own.

A fault applies to connections that are open and to those to come, until `heal`. `cut`, once, ends those that are open.
"""

import asyncio
import random
import re
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from socket import SO_LINGER, SOL_SOCKET
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

Result = TypeVar("Result")
_CHUNK_BYTES = 64 << 10
_HTTP_REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) /")
# To close with a reset instead of an orderly end: linger for no time.
_AT_ONCE = struct.pack("ii", 1, 0)


class Way(StrEnum):
    """Which of the two streams."""

    UP = "up"  # from our process to the server
    DOWN = "down"


@dataclass(frozen=True)
class Fault:
    """What is wrong with the network, or with what comes over it.

    refuse: a new connection is reset at once. hold: nothing passes, and nobody is told. delay_s: each piece waits.
    lose_reply_to: once this has passed upwards, what comes back is dropped and the connection reset.
    limit_bytes: upwards, and then the connection is reset. answer: to an HTTP request, which the server never sees.
    flip_after: of what comes down, the byte after this many is changed.
    times: so often, then no more. share: of the occasions, drawn by the proxy's seed.
    """

    refuse: bool = False
    hold: bool = False
    delay_s: float = 0.0
    lose_reply_to: bytes | None = None
    limit_bytes: int | None = None
    flip_after: int | None = None
    answer: bytes | None = None
    times: int | None = None
    share: float = 1.0


HEALTHY = Fault()


class _Pair:
    """One connection to us, and ours to the server."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self._writers = client, (client, server)
        self.is_open, self.losing, self.answered = True, False, False
        self.passed = dict.fromkeys(Way, 0)

    def reset(self) -> None:
        self.is_open = False
        for writer in self._writers:
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _AT_ONCE)
            writer.transport.abort()


class Proxy:
    """Listens on a port of its own while entered. Faults are set from any thread."""

    port: int

    def __init__(self, host: str, port: int, seed: int = 0) -> None:
        self._target, self._fault, self._left = (host, port), HEALTHY, -1
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._healed = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy of {port}", daemon=True)
        self.hits = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, url: str) -> str:
        """The same address through this proxy."""
        host, port = self._target
        changed = url.replace(f"{host}:{port}", f"127.0.0.1:{self.port}")
        if changed == url:
            raise ValueError(f"the address is not that of {host}:{port}")
        return changed

    def break_(self, fault: Fault) -> None:
        """From now on this is wrong."""
        self._call(self._set(fault))

    def heal(self) -> None:
        """From now on nothing is wrong; what was held goes on."""
        self._call(self._set(HEALTHY))

    def cut(self) -> int:
        """Reset every connection that is open; how many there were."""
        return self._call(self._cut())

    def _call(self, work: "Coroutine[Any, Any, Result]") -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _set(self, fault: Fault) -> None:
        self._fault, self._left = fault, -1 if fault.times is None else fault.times
        # Those that wait for the end of the fault before look again at the one that is now.
        self._healed.set()
        self._healed = asyncio.Event()

    async def _cut(self) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()
        return len(pairs)

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(asyncio.CancelledError):
            await task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault.refuse:
            self.hits += 1
            _Pair(writer, writer).reset()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _Pair(writer, writer).reset()
            return
        pair = _Pair(writer, server_writer)
        self._pairs.add(pair)
        pumping = asyncio.gather(
            self._pump(pair, Way.UP, reader, server_writer), self._pump(pair, Way.DOWN, server_reader, writer)
        )
        try:
            await pumping
        finally:
            self._pairs.discard(pair)
            pair.reset()

    async def _pump(self, pair: _Pair, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while pair.is_open and (chunk := await source.read(_CHUNK_BYTES)):
                await self._wait_while_held(pair)
                passed = await self._through(pair, way, chunk)
                pair.passed[way] += len(chunk)
                if passed:
                    sink.write(passed)
                    await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()
        except OSError:
            pair.reset()

    async def _wait_while_held(self, pair: _Pair) -> None:
        if self._fault.hold:
            self.hits += 1
        while self._fault.hold and pair.is_open:
            await self._healed.wait()

    async def _through(self, pair: _Pair, way: Way, chunk: bytes) -> bytes:
        """What becomes of a piece: itself, changed, or nothing."""
        fault = self._fault
        if fault.delay_s:
            self.hits += 1
            await asyncio.sleep(fault.delay_s)
        return self._upwards(pair, fault, chunk) if way is Way.UP else self._downwards(pair, fault, chunk)

    def _upwards(self, pair: _Pair, fault: Fault, chunk: bytes) -> bytes:
        if pair.answered:
            # The rest of a request that has its answer.
            return b""
        if fault.answer is not None and _HTTP_REQUEST.match(chunk) and self._due():
            pair.answered = True
            pair.client.write(fault.answer)
            return b""
        if fault.lose_reply_to is not None and fault.lose_reply_to in chunk and self._due():
            pair.losing = True
        if fault.limit_bytes is not None and pair.passed[Way.UP] + len(chunk) > fault.limit_bytes and self._due():
            left = max(0, fault.limit_bytes - pair.passed[Way.UP])
            self._loop.call_soon(pair.reset)
            return chunk[:left]
        return chunk

    def _downwards(self, pair: _Pair, fault: Fault, chunk: bytes) -> bytes:
        if pair.losing:
            # The server has answered, so it has done what it was asked for.
            pair.reset()
            return b""
        if fault.flip_after is not None:
            place = fault.flip_after - pair.passed[Way.DOWN]
            if 0 <= place < len(chunk) and self._due():
                return chunk[:place] + bytes([chunk[place] ^ 1]) + chunk[place + 1 :]
        return chunk

    def _due(self) -> bool:
        if self._left == 0 or self._random.random() >= self._fault.share:
            return False
        self._left -= 1
        self.hits += 1
        return True


def of_url(url: str, seed: int = 0) -> Proxy:
    """A proxy in front of the server of a URL."""
    found = re.search(r"([\w.]+):(\d+)(?:/|$)", url.rpartition("@")[2].rpartition("//")[2])
    if found is None:
        raise ValueError("the URL has no port")
    return Proxy(found[1], int(found[2]), seed)
