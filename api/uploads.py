"""Bodies too large for memory: streamed to a spool on disk, measured and hashed on their way."""

import hashlib
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.bodies import media_type, refuse_encoded
from domain.digests import CHUNK_BYTES, Digest
from domain.refusals import (
    BodyTooLarge,
    ControlCharacter,
    DuplicateKey,
    Invalid,
    InvalidUtf8,
    MissingField,
    OutOfRange,
    UnknownField,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FIELD_BYTES = 4096
_MAX_FIELDS = 16
_MAX_FILENAME_CHARACTERS = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Spool:
    """Bytes on disk that vanish with the request."""

    def __init__(self, stream: BinaryIO, *, max_bytes: int) -> None:
        self.stream = stream
        self.size_bytes = 0
        self._max_bytes = max_bytes
        self._sha = hashlib.sha256()

    def write(self, content: bytes) -> None:
        """Append. Raises BodyTooLarge."""
        self.size_bytes += len(content)
        if self.size_bytes > self._max_bytes:
            raise BodyTooLarge(f"The file is larger than {self._max_bytes} bytes.", param="file")
        self._sha.update(content)
        self.stream.write(content)

    @property
    def digest(self) -> Digest:
        """Of everything written so far."""
        return f"sha256:{self._sha.hexdigest()}"


@contextmanager
def open_spool(directory: Path, *, max_bytes: int) -> Iterator[Spool]:
    """An empty spool, a file without a name: a crash leaves nothing behind."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as stream:
        yield Spool(stream, max_bytes=max_bytes)


async def receive_raw(request: Request, spool: Spool) -> None:
    """The body as it comes, into the spool."""
    if media_type(request) != "application/octet-stream":
        raise UnsupportedMediaType("The body must be application/octet-stream.")
    refuse_encoded(request)
    async for chunk in _large_chunks(request):
        await run_in_threadpool(spool.write, chunk)
    spool.stream.seek(0)


async def _large_chunks(request: Request) -> AsyncIterator[bytes]:
    # The server hands over 64 KiB at a time; a thread for each would cost more than the writing.
    gathered = bytearray()
    try:
        async for chunk in request.stream():
            gathered += chunk
            if len(gathered) >= CHUNK_BYTES:
                yield bytes(gathered)
                gathered.clear()
    except ClientDisconnect:
        raise Invalid("The body ended early.") from None
    yield bytes(gathered)


@dataclass
class Form:
    """A multipart form: short fields, and at most one file, in the spool."""

    spool: Spool
    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


async def receive_form(request: Request, spool: Spool) -> Form:
    """Parse a multipart body as it comes. The part with a file name fills the spool, and must be called `file`."""
    form = Form(spool)

    def opened(field_name: str, filename: str) -> Spool:
        if field_name != "file" or form.filename is not None:
            raise Invalid("Exactly one file is expected, in the field `file`.", param="file")
        form.filename = filename
        return spool

    await _parse_form(request, _FormReader(opened, form.fields))
    if form.filename is None:
        raise MissingField("There is no file.", param="file")
    spool.stream.seek(0)
    return form


async def receive_files(request: Request, folder: Path, max_bytes_of: Callable[[str], int]) -> None:
    """Every part of a multipart body into a file of the folder, under the last part of its name.

    max_bytes_of raises where there may be no file of that name: before a byte of it is written.
    """
    names: set[str] = set()
    fields: dict[str, str] = {}
    with ExitStack() as files:

        def opened(field_name: str, filename: str) -> Spool:
            max_bytes = max_bytes_of(filename)
            if field_name != "files":
                raise UnknownField("The field of a file is called `files`.", param=field_name[:64])
            if filename in names:
                raise DuplicateKey("Two files have the same name.", param=filename)
            names.add(filename)
            return Spool(files.enter_context((folder / filename).open("xb")), max_bytes=max_bytes)

        await _parse_form(request, _FormReader(opened, fields))
    if fields:
        raise UnknownField("A field is not supported here.", param=min(fields)[:64])


async def _parse_form(request: Request, reader: "_FormReader") -> None:
    refuse_encoded(request)
    if media_type(request) != "multipart/form-data":
        raise UnsupportedMediaType("The body must be multipart/form-data.")
    boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary")
    if not boundary:
        raise Invalid("The multipart body names no boundary.")
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        async for chunk in _large_chunks(request):
            await run_in_threadpool(parser.write, chunk)
        parser.finalize()
    except FormParserError:
        raise Invalid("The multipart body is malformed.") from None
    if not reader.ended:
        raise Invalid("The multipart body ended early.")


class _FormReader:
    """What python-multipart calls while it parses."""

    def __init__(self, open_file: Callable[[str, str], Spool], fields: dict[str, str]) -> None:
        self.ended = False
        self._open_file, self._fields = open_file, fields
        self._header_name = self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._value = bytearray()
        self._file: Spool | None = None

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._header_name = self._header_value = self._disposition = b""
        self._value.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        options = parse_options_header(self._disposition)[1]
        self._name = _text(options.get(b"name", b""), "name")
        self._file = None
        if b"filename" in options:
            self._file = self._open_file(self._name, clean_filename(_text(options[b"filename"], "filename")))
        elif self._name in self._fields or len(self._fields) >= _MAX_FIELDS:
            raise DuplicateKey("A field stands twice, or there are too many.", param=self._name[:64])

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            raise OutOfRange(f"A field holds {_MAX_FIELD_BYTES} bytes at most.", param=self._name[:64])

    def _on_part_end(self) -> None:
        if self._file is None:
            self._fields[self._name] = _text(bytes(self._value), self._name[:64])

    def _on_end(self) -> None:
        self.ended = True


def _text(content: bytes, param: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidUtf8("Not valid UTF-8.", param=param) from None


def clean_filename(given: str) -> str:
    """The last part of a path, as a label: it never names anything on our side. Raises Invalid."""
    name = re.split(r"[/\\]", given)[-1].strip()
    if _CONTROL.search(name):
        raise ControlCharacter("The file name contains a control character.", param="filename")
    if len(name) > _MAX_FILENAME_CHARACTERS:
        raise OutOfRange(f"A file name has {_MAX_FILENAME_CHARACTERS} characters at most.", param="filename")
    return name if name not in {"", ".", ".."} else "upload"
