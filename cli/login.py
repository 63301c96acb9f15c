"""`tsugiki login` and `logout`: the organisation's identity provider, in the browser of whoever is at this machine.

Authorisation code with PKCE (RFC 7636) for a public client, back to a loopback address (RFC 8252).
"""

import secrets
import sys
import webbrowser
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Annotated

import httpx
import typer
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import OAuth2Client

from cli.session import Session

SCOPE = "openid profile email groups"
WAIT_S = 300
TIMEOUT_S = 30
Issuer = Annotated[str, typer.Option(envvar="TSUGIKI_OIDC_ISSUER", help="The identity provider.")]
ClientId = Annotated[str, typer.Option(envvar="TSUGIKI_OIDC_CLIENT_ID", help="The service's client id there.")]


class NotSignedIn(Exception):  # noqa: N818 - named for the fact, as refusals are
    """The provider did not send anybody back, or not whom it was asked for."""


def login(
    context: typer.Context,
    *,
    issuer: Issuer,
    client_id: ClientId,
    port: Annotated[int, typer.Option(help="The loopback port that the provider sends the browser back to.")] = 8765,
    browser: Annotated[bool, typer.Option(help="Open a browser; else its address is printed.")] = True,
) -> None:
    """Sign in, and print a key that lasts a working day: `export TSUGIKI_API_KEY=$(tsugiki login)`."""
    session, nonce = Session.of(context), secrets.token_urlsafe(32)
    with HTTPServer(("127.0.0.1", port), _Callback) as listener:
        token = _id_token(issuer, client_id, listener, nonce=nonce, browser=browser)
    begun = session.signed_in(token).post("sessions", body={"nonce": nonce})
    session.output.said(begun, begun["value"])


def logout(context: typer.Context) -> None:
    """End the key that this command line uses."""
    session = Session.of(context)
    session.output.said(session.connection.delete("sessions"), "Signed out.")


def _id_token(issuer: str, client_id: str, listener: HTTPServer, *, nonce: str, browser: bool) -> str:
    back = f"http://127.0.0.1:{listener.server_port}/callback"
    verifier = secrets.token_urlsafe(48)
    client = OAuth2Client(
        client_id,
        scope=SCOPE,
        redirect_uri=back,
        token_endpoint_auth_method="none",  # noqa: S106 - a public client has no secret
        code_challenge_method="S256",
        timeout=TIMEOUT_S,
    )
    try:
        with client:
            document = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
            provider = httpx.get(document, timeout=TIMEOUT_S).raise_for_status().json()
            url, state = client.create_authorization_url(
                provider["authorization_endpoint"], code_verifier=verifier, nonce=nonce
            )
            answer = _sent_back(listener, url, state, browser=browser)
            # RFC 9207: whoever answers says who they are.
            if provider["issuer"] != issuer or answer.get("iss", issuer) != issuer:
                raise NotSignedIn("Another provider answered than the one that was asked.")
            if "code" not in answer:
                raise NotSignedIn("The provider did not sign anybody in.")
            token = client.fetch_token(provider["token_endpoint"], code=answer["code"], code_verifier=verifier)
            return str(token["id_token"])
    except (httpx.HTTPError, OAuthError, KeyError, ValueError) as error:
        raise NotSignedIn(f"The provider did not sign anybody in ({type(error).__name__}).") from error


def _sent_back(listener: HTTPServer, url: str, state: str, *, browser: bool) -> httpx.QueryParams:
    """What the provider sends the browser back with. Raises NotSignedIn."""
    sys.stderr.write(f"Sign in at {url}\n")
    if browser:
        webbrowser.open(url)
    listener.timeout = WAIT_S
    _Callback.answer = None
    listener.handle_request()
    answer = _Callback.answer
    if answer is None or not secrets.compare_digest(answer.get("state", ""), state):
        raise NotSignedIn("Nobody came back from the provider, or somebody else did.")
    return answer


class _Callback(BaseHTTPRequestHandler):
    """The one request that the browser makes when the provider is done."""

    answer: httpx.QueryParams | None = None

    def do_GET(self) -> None:
        type(self).answer = httpx.URL(self.path).params
        self.send_response(200)
        self.send_header("content-type", "text/plain; charset=utf-8")
        self.end_headers()
        self.wfile.write(b"Signed in. You may close this page.\n")

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the address holds the code."""
