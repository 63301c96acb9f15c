"""Signing in at a real OpenID provider, which these tests start, and every token that must not be believed."""

import hmac
import json
import os
import re
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from authlib.integrations.httpx_client import OAuth2Client
from joserfc import jwk, jws, jwt

from domain.refusals import Unauthenticated
from runtime import wiring
from runtime.settings import Settings
from runtime.tokens import TokenVerifier
from tests.integration.conftest import Department, http, serving

ROOT = Path(__file__).resolve().parents[3]
CLIENT = "tsugiki"
PASSWORD = "correct horse battery staple"
START_TIMEOUT_S = 60


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def callback_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def issuer(callback_port: int) -> Iterator[str]:
    """The provider's address, which is its name as well."""
    script = Path(__file__).parents[1] / "oidc_provider.py"
    redirect = f"http://127.0.0.1:{callback_port}/callback"
    command = [sys.executable, str(script), str(free_port()), CLIENT, redirect]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the provider did not start"
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                httpx.get(f"{address}/.well-known/openid-configuration").raise_for_status()
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield address
        process.terminate()


def sign_in_by_browser(url: str, name: str, back: str) -> httpx.URL:
    """Do what a person does in a browser, until the provider sends it back: the address it is sent to."""
    with httpx.Client() as browser:
        answer = browser.get(url)
        for _ in range(10):
            if answer.is_redirect:
                target = answer.url.join(answer.headers["location"])
                if str(target).startswith(back):
                    return target
                answer = browser.get(target)
                continue
            found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', answer.text)
            assert found, answer.text[:2000]
            field = ("password", PASSWORD) if 'name="password"' in answer.text else ("login", name)
            answer = browser.post(answer.url, data=dict([("csrf_token", found[1]), field]))
    raise AssertionError("the provider did not send the browser back")


@pytest.fixture(scope="module")
def token_of(issuer: str, callback_port: int) -> Callable[..., str]:
    """A token of the provider's for one of its people, by the authorisation code flow with PKCE."""

    @cache
    def answered(name: str, client_id: str, nonce: str) -> dict[str, Any]:
        back = f"http://127.0.0.1:{callback_port}/callback"
        with OAuth2Client(
            client_id, scope="openid profile email groups", redirect_uri=back, token_endpoint_auth_method="none",
            code_challenge_method="S256",
        ) as client:  # fmt: skip
            url, _state = client.create_authorization_url(
                f"{issuer}/oauth/authorize", code_verifier="v" * 43, nonce=nonce
            )
            target = sign_in_by_browser(url, name, back)
            token: dict[str, Any] = client.fetch_token(
                f"{issuer}/oauth/token", code=target.params["code"], code_verifier="v" * 43
            )
            return token

    def signed_in(name: str, *, client_id: str = CLIENT, kind: str = "id_token", nonce: str = "n") -> str:
        return str(answered(name, client_id, nonce)[kind])

    return signed_in


@pytest.fixture(scope="module")
def hr(make_department: Callable[[], Department]) -> Department:
    return make_department()


@contextmanager
def signing_in(settings: Settings, issuer: str, hr: Department, *, trusts_email: bool) -> Iterator[str]:
    """The same installation, with the provider, which says of no address that it has verified it."""
    groups = f"hr-trainers={hr.name}:trainer, hr-stewards={hr.name}:data_steward,hr-admins={hr.name}:department_admin"
    values = {name: getattr(settings, name) for name in Settings.model_fields} | {
        "oidc_issuer": issuer, "oidc_client_id": CLIENT, "oidc_groups": groups, "oidc_trust_email": trusts_email,
    }  # fmt: skip
    runtime = wiring.build(Settings.model_validate(values))
    with serving(runtime) as address:
        yield address
    runtime.close()


@pytest.fixture(scope="module")
def url(settings: Settings, issuer: str, hr: Department) -> Iterator[str]:
    with signing_in(settings, issuer, hr, trusts_email=True) as address:
        yield address


@pytest.fixture(scope="module")
def doubting(settings: Settings, issuer: str, hr: Department) -> Iterator[str]:
    with signing_in(settings, issuer, hr, trusts_email=False) as address:
        yield address


# --- who signs in -----------------------------------------------------------------------------------------------------


def test_an_address_that_proves_nothing_is_nobodys_also_in_a_group(
    *, url: str, doubting: str, token_of: Callable[..., str], operator_key: str
) -> None:
    # Whoever enters somebody of that address later means its owner, and not who said it was theirs.
    with http(doubting, token_of("ada")) as ada, http(url, operator_key) as operator:
        assert ada.get("/me").status_code == 401
        people = operator.get("/organization/users", params={"limit": 100}).raise_for_status().json()["data"]
        assert "ada@hr.example" not in {person["email"] for person in people}


def test_a_groups_member_signs_in_and_is_what_the_group_is_here(
    *, url: str, hr: Department, token_of: Callable[..., str], auditor_key: str
) -> None:
    for kind in ("id_token", "access_token"):
        with http(url, token_of("ada", kind=kind)) as ada:
            me = ada.get("/me").raise_for_status().json()
            assert (me["roles"], me["department"], me["email"]) == (["trainer"], hr.id, "ada@hr.example")
            assert me["human"] == me["id"]
            assert ada.get("/fine_tuning/jobs").is_success
            assert ada.get(f"/organization/projects/{hr.id}/users").status_code == 403
    with http(url, token_of("bob")) as bob:
        assert bob.get("/me").json()["roles"] == ["data_steward", "department_admin"]
    with http(url, auditor_key) as auditor:
        query = {"resource_ids[]": me["id"], "limit": 100}
        events = auditor.get("/organization/audit_logs", params=query).json()["data"]
    told = [event["type"] for event in events]
    assert sorted(told) == ["identity.linked", "member.added", "user.created"]
    added = next(event for event in events if event["type"] == "member.added")
    assert added["details"] == {"before": [], "after": ["trainer"], "by": "groups"}
    assert "ada" not in json.dumps(events)


def test_roles_follow_the_groups_at_the_next_request(*, url: str, hr: Department, token_of: Callable[..., str]) -> None:
    with http(url, token_of("ada")) as ada, hr.http(hr.admin) as admin:
        user = ada.get("/me").json()["id"]
        changed = admin.post(f"/organization/projects/{hr.id}/users/{user}", json={"roles": ["viewer"]})
        assert changed.raise_for_status().json()["roles"] == ["viewer"]
        assert ada.get("/me").json()["roles"] == ["trainer"]


def test_who_is_in_no_group_and_in_no_department_is_nobody(url: str, token_of: Callable[..., str]) -> None:
    with http(url, token_of("eve")) as eve, http(url, "tsk_nobody") as nobody:
        assert eve.get("/me").status_code == 401
        assert eve.get("/me").content == nobody.get("/me").content


def test_a_person_is_found_by_an_address_only_where_the_provider_is_trusted_with_it(
    *, doubting: str, hr: Department, token_of: Callable[..., str], settings: Settings, issuer: str
) -> None:
    with hr.http(hr.admin) as admin:
        eve = admin.post("/organization/users", json={"email": "eve@hr.example", "name": "Eve"}).json()["id"]
        admin.post(f"/organization/projects/{hr.id}/users", json={"user_id": eve, "roles": ["viewer"]})
    token = token_of("eve")
    with http(doubting, token) as unknown:
        assert unknown.get("/me").status_code == 401
    values = {name: getattr(settings, name) for name in Settings.model_fields} | {
        "oidc_issuer": issuer, "oidc_client_id": CLIENT, "oidc_trust_email": True,
    }  # fmt: skip
    runtime = wiring.build(Settings.model_validate(values))
    with serving(runtime) as trusting, http(trusting, token) as known:
        assert known.get("/me").json()["id"] == eve
        with hr.http(hr.admin) as admin:
            admin.delete(f"/organization/projects/{hr.id}/users/{eve}").raise_for_status()
        # Known, and nobody anywhere: also where they say where they want to be.
        assert known.get("/me").status_code == 403
        assert known.get("/me", headers={"OpenAI-Project": hr.id}).status_code == 404
    runtime.close()


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_is_a_key_that_ends_by_itself_and_by_signing_out(
    url: str, hr: Department, token_of: Callable[..., str]
) -> None:
    with http(url, token_of("ada", nonce="of this sign-in")) as ada:
        assert ada.post("/sessions", json={"nonce": "of another"}).status_code == 403
        begun = ada.post("/sessions", json={"nonce": "of this sign-in"}).raise_for_status().json()
    assert begun["expires_at"] == pytest.approx(time.time() + 12 * 3600, abs=60)
    with http(url, begun["value"]) as session:
        assert session.get("/me").json()["department"] == hr.id
        # Not prolonged by itself.
        assert session.post("/sessions", json={}).status_code == 403
        session.delete("/sessions").raise_for_status()
        assert session.get("/me").status_code == 401


def test_the_command_line_signs_in_through_a_browser(url: str, callback_port: int, issuer: str) -> None:
    environment = os.environ | {
        "TSUGIKI_BASE_URL": url, "TSUGIKI_OIDC_ISSUER": issuer, "TSUGIKI_OIDC_CLIENT_ID": CLIENT, "BROWSER": "false",
    }  # fmt: skip
    environment.pop("TSUGIKI_API_KEY", None)
    command = [sys.executable, "-m", "cli.main", "login", "--no-browser", "--port", str(callback_port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:  # type: ignore[call-overload]
        address = process.stderr.readline().removeprefix("Sign in at ").strip()
        target = sign_in_by_browser(address, "ada", f"http://127.0.0.1:{callback_port}/callback")
        assert httpx.get(target).text.startswith("Signed in.")
        key, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    with http(url, key.strip()) as session:
        assert session.get("/me").json()["roles"] == ["trainer"]
    ended = subprocess.run(
        [sys.executable, "-m", "cli.main", "logout"], cwd=ROOT, env=environment | {"TSUGIKI_API_KEY": key.strip()},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.stdout == "Signed out.\n"
    with http(url, key.strip()) as session:
        assert session.get("/me").status_code == 401


# --- what is not believed ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forged(token_of: Callable[..., str], issuer: str) -> dict[str, str]:
    """Tokens that are wrong in one thing each; made from a right one, or signed with a key of our own."""
    right = token_of("ada")
    header, payload, signature = right.split(".")
    claims = jws.extract_compact(right.encode()).payload
    said: dict[str, Any] = json.loads(claims)
    kid = jws.extract_compact(right.encode()).headers()["kid"]
    published = httpx.get(f"{issuer}/oauth/jwks.json").json()
    public = next(key for key in published["keys"] if key["kid"] == kid)
    own = jwk.RSAKey.generate_key(2048)
    pem = jwk.RSAKey.import_key(public).as_pem(private=False)

    def encoded(value: Any) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    def by_us(**header: Any) -> str:
        registry = jws.JWSRegistry(strict_check_header=False)
        return jwt.encode({"alg": "RS256", "kid": kid} | header, said, own, registry=registry)

    # By hand: the library would not.
    signed = f"{encoded({'alg': 'HS256', 'kid': kid, 'typ': 'JWT'})}.{payload}"
    with_public_key = urlsafe_b64encode(hmac.digest(pem, signed.encode(), "sha256")).rstrip(b"=").decode()
    return {
        "no algorithm": f"{encoded({'alg': 'none', 'kid': kid, 'typ': 'JWT'})}.{payload}.",
        "no algorithm, with the signature": f"{encoded({'alg': 'none', 'kid': kid})}.{payload}.{signature}",
        "HS256 with the public key": f"{signed}.{with_public_key}",
        "our key under its name": by_us(),
        "an unknown key": by_us(kid="unknown"),
        "an address of a key": by_us(jku=f"{issuer}/oauth/jwks.json"),
        "a key of its own": by_us(jwk=own.as_dict(private=False)),
        "a certificate's address": by_us(x5u=f"{issuer}/cert"),
        "something critical": f"{encoded({'alg': 'RS256', 'kid': kid, 'crit': ['x'], 'x': 1})}.{payload}.{signature}",
        "a jku on a right signature": f"{encoded({'alg': 'RS256', 'kid': kid, 'jku': issuer})}.{payload}.{signature}",
        "other claims": f"{header}.{encoded(said | {'sub': 'bob'})}.{signature}",
        "no signature": f"{header}.{payload}.",
        "cut short": right[:-4],
        "two parts": f"{header}.{payload}",
        "not ASCII": right + "é",
        "too long": right + "A" * 20_000,
        "another client's": token_of("ada", client_id="another-client"),
    }


def test_the_right_token_is_believed(issuer: str, token_of: Callable[..., str]) -> None:
    # The control of all that follow.
    identity = TokenVerifier(issuer, CLIENT, ["RS256"]).verify(token_of("ada"))
    assert (identity.subject, identity.groups, identity.nonce) == ("ada", {"hr-trainers"}, "n")


def test_no_wrong_token_is_believed_and_all_have_one_answer(url: str, forged: dict[str, str]) -> None:
    nobody = httpx.get(f"{url}/me", headers={"Authorization": "Bearer tsk_nobody"})
    for what, token in forged.items():
        for path in ("/me", "/files"):
            answer = httpx.get(f"{url}{path}", headers={"Authorization": f"Bearer {token}".encode()})
            assert (answer.status_code, answer.content) == (401, nobody.content), what


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"iss": "http://127.0.0.1:1"}, "another issuer"),
        ({"iss": None}, "no issuer"),
        ({"aud": ["tsugiki", "another-client"]}, "two audiences"),
        ({"aud": "tsugiki "}, "an audience nearly the same"),
        ({"aud": None}, "no audience"),
        ({"exp": 1_000_000_000}, "expired"),
        ({"exp": None}, "no end"),
        ({"exp": "never"}, "an end that is none"),
        ({"nbf": 4_000_000_000}, "not yet"),
        ({"sub": None}, "nobody"),
        ({"sub": 7}, "a number"),
        ({"groups": "hr-trainers"}, "groups that are none"),
        ({}, None),
    ],
)
def test_claims_that_are_wrong_in_one_thing_are_refused(changed: dict[str, Any], why: str | None) -> None:
    key = jwk.RSAKey.generate_key(2048, {"kid": "k"})
    claims = {"iss": "https://issuer.example", "aud": "tsugiki", "exp": int(time.time()) + 60, "sub": "ada"}
    claims = {name: value for name, value in (claims | changed).items() if value is not None}
    issuer = "https://issuer.example"
    published = {
        f"{issuer}/.well-known/openid-configuration": {"issuer": issuer, "jwks_uri": f"{issuer}/keys"},
        f"{issuer}/keys": {"keys": [key.as_dict(private=False)]},
    }
    verifier = TokenVerifier(issuer, "tsugiki", ["RS256"], ask=published.__getitem__)
    token = jwt.encode({"alg": "RS256", "kid": "k"}, claims, key)
    if why is None:
        assert verifier.verify(token).subject == "ada"
        return
    with pytest.raises(Unauthenticated):
        verifier.verify(token)


def test_a_provider_that_does_not_answer_is_no_refusal(settings: Settings, forged: dict[str, str]) -> None:
    values = {name: getattr(settings, name) for name in Settings.model_fields} | {
        "oidc_issuer": f"http://127.0.0.1:{free_port()}", "oidc_client_id": CLIENT,
    }  # fmt: skip
    runtime = wiring.build(Settings.model_validate(values))
    with serving(runtime) as away:
        answer = httpx.get(f"{away}/me", headers={"Authorization": f"Bearer {forged['our key under its name']}"})
    runtime.close()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")


@pytest.mark.parametrize(
    "wrong",
    [
        {"oidc_issuer": "http://issuer.example"}, {"oidc_issuer": "issuer"}, {"oidc_algorithms": "HS256"},
        {"oidc_algorithms": "RS256,none"}, {"oidc_groups": "a=b:approver"}, {"oidc_groups": "a=b:operator"},
        {"oidc_groups": "a=b"}, {"oidc_groups": "a=b:trainer,a=c:trainer"},
    ],
)  # fmt: skip
def test_settings_that_would_be_unsafe_stop_the_start(settings: Settings, wrong: dict[str, str]) -> None:
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings.model_validate(values | wrong)
