"""The HTTP connection: the official client for what it covers, httpx for Tsugiki's own nouns, one error for both."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any
from urllib.parse import quote

import httpx
import openai

from cli.endpoint import Endpoint

# An object as the API sent it: printed as it is with --json.
JsonObject = dict[str, Any]
# None values are left out of the query; a sequence repeats its name.
Query = Mapping[str, str | int | float | list[str] | None]

CONNECT_TIMEOUT_S = 10
# A base model's file is digested by the service before it answers.
READ_TIMEOUT_S = 600
PAGE_ROWS = 100
FORBIDDEN = 403
NO_SUCH_PATH = "No such path."


class Refused(Exception):  # noqa: N818 - named for the fact, as refusals are
    """The service understood and said no, in the error body every route shares."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        details: Sequence[JsonObject] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.details = status, message, code, param, details

    @classmethod
    def from_body(cls, status: int, body: Any, *, path: str) -> "Refused":
        """From `{"error": {...}}` or its inside; a body of another shape was not written by the service.

        path is that of the request.
        """
        inside = body.get("error", body) if isinstance(body, dict) else None
        if not isinstance(inside, dict) or not isinstance(inside.get("message"), str):
            return cls(status, f"The answer was HTTP {status}, and not from Tsugiki.")
        message = inside["message"]
        if message == NO_SUCH_PATH and "/v1/" not in path:
            message += " A base URL ends in /v1, and this one does not."
        details = inside.get("details")
        findings = [each for each in details if isinstance(each, dict)] if isinstance(details, list) else []
        return cls(status, message, code=inside.get("code"), param=inside.get("param"), details=findings)


class Unreachable(Exception):  # noqa: N818
    """No answer: nothing listens there, or the connection broke."""


class Connection:
    """One caller's way to the service. department is sent along for keys that stand outside all departments."""

    def __init__(self, endpoint: Endpoint, department: str | None = None) -> None:
        for what, value in (("The key (TSUGIKI_API_KEY)", endpoint.api_key), ("--department", department or "-")):
            if not value or not all("!" <= character <= "~" for character in value):
                raise Unreachable(f"{what} is empty, or holds a character that it cannot have.")
        self.endpoint, self._department = endpoint, department
        headers = {"Authorization": f"Bearer {endpoint.api_key}"}
        if department:
            headers["OpenAI-Project"] = department
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        with translated():
            # A redirect is not followed: the key goes to the named service only.
            self._http = httpx.Client(
                base_url=endpoint.base_url, headers=headers, timeout=timeout, follow_redirects=False
            )

    @cached_property
    def client(self) -> openai.OpenAI:
        """The official client on the same service, key and department."""
        return openai.OpenAI(
            base_url=self.endpoint.base_url,
            api_key=self.endpoint.api_key,
            project=self._department,
            timeout=READ_TIMEOUT_S,
        )

    def close(self) -> None:
        """Give the sockets back."""
        self._http.close()
        if "client" in self.__dict__:
            self.client.close()

    def get(self, *path: str, query: Query | None = None) -> JsonObject:
        """GET /v1/path/…; each part of the path is quoted. Raises Refused or Unreachable."""
        return self._json("GET", path, query=query)

    def text(self, *path: str, query: Query | None = None) -> str:
        """GET what is not JSON."""
        with translated():
            response = self._http.get(_url(path), params=dict(query or {}))
            if not response.is_success:
                _checked(response)
            return response.text

    def post(self, *path: str, body: JsonObject | None = None, query: Query | None = None) -> JsonObject:
        """POST a JSON body, or none."""
        return self._json("POST", path, query=query, body=body)

    def post_bytes(self, *path: str, content: bytes, media_type: str, query: Query | None = None) -> JsonObject:
        """POST a body that is no JSON."""
        headers, params = {"Content-Type": media_type}, dict(query or {})
        with translated():
            return _checked(self._http.post(_url(path), content=content, headers=headers, params=params))

    def put(self, *path: str, body: JsonObject, headers: Mapping[str, str]) -> JsonObject:
        """PUT a JSON body under the conditions of some headers."""
        return self._json("PUT", path, body=body, headers=headers)

    def delete(self, *path: str) -> JsonObject:
        """DELETE, with no body."""
        return self._json("DELETE", path)

    def put_bytes(self, *path: str, content: Iterator[bytes], size_bytes: int) -> JsonObject:
        """PUT a stream whose size is known."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
        with translated():
            return _checked(self._http.put(_url(path), content=content, headers=headers))

    def post_files(self, *path: str, files: Sequence[tuple[str, IO[bytes]]]) -> JsonObject:
        """POST files by name, as a multipart body that is read while it is sent."""
        parts = [("files", (name, stream, "application/octet-stream")) for name, stream in files]
        with translated():
            return _checked(self._http.post(_url(path), files=parts))

    def pages(self, *path: str, query: Query | None = None) -> Iterator[JsonObject]:
        """Every object of a list, page after page, for as long as the caller wants more."""
        after: str | None = None
        while True:
            page = self.get(*path, query={"limit": PAGE_ROWS, "after": after} | dict(query or {}))
            yield from page["data"]
            after = page.get("last_id") or (page["data"][-1].get("id") if page["data"] else None)
            if not page.get("has_more") or after is None:
                return

    @contextmanager
    def stream(self, *path: str, body: JsonObject | None = None) -> Iterator[httpx.Response]:
        """GET an answer too large for memory, or POST a body that has one. Raises Refused or Unreachable."""
        method = "GET" if body is None else "POST"
        with translated(), self._http.stream(method, _url(path), json=body) as response:
            if not response.is_success:
                response.read()
                _checked(response)
            yield response

    def _json(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Query | None = None,
        body: JsonObject | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> JsonObject:
        params = {name: value for name, value in (query or {}).items() if value is not None}
        with translated():
            return _checked(self._http.request(method, _url(path), params=params, json=body, headers=headers))


def _url(path: tuple[str, ...]) -> str:
    # `:` stays, as the official client leaves it; a `/` inside a part is quoted.
    return "/".join(quote(part, safe=":@") for part in path)


def _checked(response: httpx.Response) -> JsonObject:
    try:
        body = response.json()
    except ValueError:
        body = None
    if not response.is_success or not isinstance(body, dict):
        raise Refused.from_body(response.status_code, body, path=response.url.path)
    return body


@contextmanager
def translated() -> Iterator[None]:
    """Both clients' errors as Refused or Unreachable: a user never reads a library's text."""
    try:
        yield
    except openai.APIStatusError as error:
        raise Refused.from_body(error.status_code, error.body, path=error.response.url.path) from None
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise Unreachable("The base URL is not one: it begins with http:// or https:// and ends in /v1.") from None
    except (openai.APITimeoutError, httpx.TimeoutException):
        raise Unreachable("The service did not answer in time.") from None
    except (openai.APIConnectionError, httpx.ConnectError):
        raise Unreachable("Nothing answers there. Is the service running?") from None
    except httpx.TransportError:
        raise Unreachable("The connection broke.") from None
