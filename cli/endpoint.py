"""Which service the command line talks to, and with whose key."""

import json
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FILE = Path(".tsugiki/endpoint.json")


class EndpointUnknown(Exception):  # noqa: N818 - named for the fact, as refusals are
    """Nothing says where the service is, or which key to use."""


@dataclass(frozen=True)
class Endpoint:
    """A base URL ending in /v1, the caller's key, and the auditor's where a local service's file names it."""

    base_url: str
    api_key: str
    auditor_key: str | None = None


def find(base_url: str | None, api_key: str | None, file: Path | None) -> Endpoint:
    """The endpoint of the options or the environment, else of a local service's endpoint.json.

    A key of the file is sent only to the file's own service: never to a base URL that came from elsewhere.
    """
    if base_url is not None:
        if api_key is None:
            raise EndpointUnknown("TSUGIKI_BASE_URL is set but TSUGIKI_API_KEY is not.")
        return Endpoint(base_url.rstrip("/"), api_key)
    said = read(file or DEFAULT_FILE)
    if api_key is not None:
        return Endpoint(said.base_url, api_key)
    return said


def read(file: Path) -> Endpoint:
    """What a local service wrote there, with the operator's key. Raises EndpointUnknown."""
    try:
        said = json.loads(file.read_bytes())
        return Endpoint(said["base_url"].rstrip("/"), said["admin_key"], said.get("auditor_key"))
    except FileNotFoundError:
        raise EndpointUnknown(
            f"There is no {file}: set TSUGIKI_BASE_URL and TSUGIKI_API_KEY, or give --endpoint DIR/endpoint.json."
        ) from None
    except PermissionError:
        raise EndpointUnknown(f"{file} may not be read by you: it holds the operator's key.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise EndpointUnknown(f"{file} is not what `tsugiki up` writes.") from None
