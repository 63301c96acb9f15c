"""A real OpenID provider, canaille, in a process of its own: `python oidc_provider.py PORT CLIENT REDIRECT_URI`.

It keeps its people in memory. Written as a script, because its libraries' warnings are its own.
"""

import sys

import canaille
from canaille.app import models
from canaille.backends import Backend
from canaille.backends.memory.backend import MemoryBackend
from werkzeug.serving import make_server

PASSWORD = "correct horse battery staple"
PEOPLE = {"ada": ["hr-trainers"], "bob": ["hr-stewards", "hr-admins"], "eve": []}


def main(port: int, client_id: str, redirect_uri: str) -> None:
    address = f"http://127.0.0.1:{port}"
    config = {
        "SECRET_KEY": "of a test",
        "SERVER_NAME": f"127.0.0.1:{port}",
        "PREFERRED_URL_SCHEME": "http",
        "CANAILLE": {"ENABLE_REGISTRATION": False, "DATABASE": "memory", "LOGGING": {"version": 1}},
        "CANAILLE_OIDC": {"TRUSTED_DOMAINS": ["127.0.0.1"]},
    }
    app = canaille.create_app(config, backend=MemoryBackend(config))
    with app.app_context(), Backend.instance.session():
        people = {name: _person(name) for name in PEOPLE}
        for group in sorted({group for groups in PEOPLE.values() for group in groups}):
            members = [people[name] for name, groups in PEOPLE.items() if group in groups]
            Backend.instance.save(models.Group(display_name=group, members=members))
        for identifier in (client_id, "another-client"):
            _client(identifier, redirect_uri)
    sys.stdout.write(f"{address}\n")
    sys.stdout.flush()
    make_server("127.0.0.1", port, app, threaded=True).serve_forever()


def _person(name: str) -> object:
    person = models.User(
        user_name=name, formatted_name=name.title(), family_name=name.title(), emails=[f"{name}@hr.example"],
        password=PASSWORD,
    )  # fmt: skip
    Backend.instance.save(person)
    return person


def _client(client_id: str, redirect_uri: str) -> None:
    client = models.Client(
        client_id=client_id, client_name=client_id, client_uri="http://127.0.0.1", redirect_uris=[redirect_uri],
        grant_types=["authorization_code"], response_types=["code"], scope=["openid", "profile", "email", "groups"],
        token_endpoint_auth_method="none", application_type="native", id_token_signed_response_alg="RS256",
    )  # fmt: skip
    Backend.instance.save(client)
    client.audience = [client]
    Backend.instance.save(client)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
