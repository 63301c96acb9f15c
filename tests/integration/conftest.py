"""The API on real servers: a database for each module, one bucket and one broker for all, a real socket for the client.

Fixtures: `database`, `settings`, `runtime`, `api_url`, `operator_key`, `auditor_key`, `make_department`, `department`,
`base_model`; `runtime` does not need the API to run.
"""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn
from sqlalchemy import URL, create_engine, make_url, text

from api.app import create_app
from domain.digests import Manifest, manifest_of_tree
from models_db.sessions import APP_ROLE
from runtime import migrations, wiring
from runtime.embedded import EmbeddedServices
from runtime.settings import Settings
from runtime.wiring import Runtime
from services import installation
from services.installation import PlatformKeys

APP_PASSWORD = "of the application's role, in every test's database"
BASE_MODEL = "tiny"
_databases = count(1)
_departments = count(1)
_open_clients: list[openai.OpenAI] = []


@dataclass(frozen=True)
class Database:
    """A migrated, empty database."""

    admin_url: str
    app_url: str


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def _administer(url: URL, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


@pytest.fixture(scope="session")
def template_database(embedded: EmbeddedServices) -> URL:
    """A migrated database that others are copied from; nobody stays connected to it. The server's administrator."""
    server = make_url(embedded.database_admin_url).set(drivername="postgresql+psycopg")
    template = server.set(database="tsugiki_template")
    _administer(server, "CREATE DATABASE tsugiki_template")
    migrations.upgrade(_shown(template), _shown(template.set(username=APP_ROLE, password=APP_PASSWORD)))
    return server


@pytest.fixture(scope="module")
def database(template_database: URL) -> Iterator[Database]:
    name = f"tsugiki_test_{next(_databases)}"
    _administer(template_database, f"CREATE DATABASE {name} TEMPLATE tsugiki_template")
    admin = template_database.set(database=name)
    yield Database(_shown(admin), _shown(admin.set(username=APP_ROLE, password=APP_PASSWORD)))
    _administer(template_database, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def settings(
    database: Database, embedded: EmbeddedServices, signing_key_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    return Settings.model_validate(
        {
            "database_url": database.app_url,
            "database_admin_url": database.admin_url,
            "broker_url": embedded.broker_url,
            "s3_endpoint": embedded.s3.endpoint_url,
            "s3_region": embedded.s3.region,
            "s3_bucket": embedded.s3.bucket,
            "s3_access_key": embedded.s3.access_key,
            "s3_secret_key": embedded.s3.secret_key,
            "signing_key_file": signing_key_file,
            "organisation": "acme",
            "work_dir": tmp_path_factory.mktemp("work"),
            "max_file_bytes": 4 << 20,
        }
    )


@pytest.fixture(scope="module")
def runtime(settings: Settings) -> Iterator[Runtime]:
    built = wiring.build(settings)
    built.objects.ensure_bucket()
    yield built
    built.close()


@contextmanager
def serving(runtime: Runtime) -> Iterator[str]:
    """The application behind a real socket, in a thread of its own, for the length of the block. Its `/v1` address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(create_app(runtime), log_config=None, lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive(), "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}/v1"
        server.should_exit = True
        thread.join(timeout=30)


@pytest.fixture(scope="module")
def api_url(runtime: Runtime) -> Iterator[str]:
    with serving(runtime) as url:
        yield url
        while _open_clients:
            _open_clients.pop().close()


@pytest.fixture(scope="module")
def platform_keys(runtime: Runtime) -> PlatformKeys:
    with runtime.platform() as session:
        return installation.create_platform_keys(session)


@pytest.fixture(scope="module")
def operator_key(platform_keys: PlatformKeys) -> str:
    return platform_keys.operator


@pytest.fixture(scope="module")
def auditor_key(platform_keys: PlatformKeys) -> str:
    return platform_keys.auditor


def http(api_url: str, key: str | None, **headers: str) -> httpx.Client:
    """A plain client with a key; an argument `openai_project` becomes that header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Client(
        base_url=api_url, headers=named | ({"Authorization": f"Bearer {key}"} if key else {}), timeout=60
    )


def official_client(api_url: str, key: str) -> openai.OpenAI:
    """The unmodified client; its administration uses the same key. Closed with the module."""
    client = openai.OpenAI(base_url=api_url, api_key=key, admin_api_key=key, max_retries=0)
    _open_clients.append(client)
    return client


@dataclass(frozen=True)
class Person:
    """A user of a department, and their key."""

    id: str
    key: str


@dataclass(frozen=True)
class Department:
    """A department made through the API, with an admin and a trainer who is a data steward as well."""

    id: str
    name: str
    api_url: str
    admin: Person
    trainer: Person
    operator_key: str

    def http(self, person: Person | None = None) -> httpx.Client:
        return http(self.api_url, (person or self.trainer).key)

    def client(self, person: Person | None = None) -> openai.OpenAI:
        """The official client, as its users have it."""
        return official_client(self.api_url, (person or self.trainer).key)

    def member(self, *roles: str) -> Person:
        """Another person of the department, with these roles. Operators make approvers, and with them their key."""
        if "approver" in roles:
            return self._approver(set(roles) - {"approver"})
        with self.http(self.admin) as admin:
            return _person(admin, self.id, list(roles))

    def _approver(self, others: set[str]) -> Person:
        with http(self.api_url, self.operator_key, openai_project=self.id) as operator:
            user = _user(operator)
            _sent(operator.post("/organization/role_grants", json={"user_id": user, "role": "approver"}))
            if others:
                with self.http(self.admin) as admin:
                    path = f"/organization/projects/{self.id}/users/{user}"
                    _sent(admin.post(path, json={"roles": ["approver", *sorted(others)]}))
            return Person(user, _key_of(operator, self.id, user))

    def upload(self, content: bytes, filename: str = "rows.jsonl") -> str:
        return self.client().files.create(file=(filename, content), purpose="fine-tune").id


def _sent(answer: httpx.Response) -> dict[str, str]:
    assert answer.is_success, answer.text
    created: dict[str, str] = answer.json()
    return created


def _user(http: httpx.Client) -> str:
    email = f"p{next(_departments)}@example.org"
    return _sent(http.post("/organization/users", json={"email": email, "name": "A person"}))["id"]


def _key_of(http: httpx.Client, department: str, user: str) -> str:
    body = {"user_id": user, "name": "of a test"}
    return _sent(http.post(f"/organization/projects/{department}/api_keys", json=body))["value"]


def _person(http: httpx.Client, department: str, roles: list[str]) -> Person:
    user = _user(http)
    _sent(http.post(f"/organization/projects/{department}/users", json={"user_id": user, "roles": roles}))
    return Person(user, _key_of(http, department, user))


@pytest.fixture(scope="module")
def make_department(api_url: str, operator_key: str) -> Callable[[], Department]:
    """Make another department, each with people of its own."""

    def made() -> Department:
        name = f"department-{next(_departments)}"
        with http(api_url, operator_key) as operator:
            department = _sent(operator.post("/organization/projects", json={"name": name}))["id"]
            admin = _person(operator, department, ["department_admin"])
        with http(api_url, admin.key) as client:
            trainer = _person(client, department, ["trainer", "data_steward"])
        return Department(department, name, api_url, admin, trainer, operator_key)

    return made


@pytest.fixture(scope="module")
def department(make_department: Callable[[], Department]) -> Department:
    return make_department()


# --- a base model that nobody can train on, but everything else takes for one -----------------------------------------

TINY_CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 256,
}  # fmt: skip
TINY_SHAPES = {
    "model.embed_tokens.weight": [128, 64],
    "model.layers.0.self_attn.q_proj.weight": [64, 64],
    "model.layers.0.mlp.down_proj.weight": [64, 64],
    "model.norm.weight": [64],
}


def write_base_model(folder: Path) -> Manifest:
    """A folder of the right shape, its weights all zero. The safetensors format is written by hand: header, bytes."""
    folder.mkdir(parents=True)
    header, end = {}, 0
    for name, shape in TINY_SHAPES.items():
        start, end = end, end + 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(end))
    for name, content in (("config", TINY_CONFIG), ("tokenizer", {}), ("tokenizer_config", {})):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return manifest_of_tree(folder)


def register_base_model(api_url: str, operator_key: str, folder: Path, name: str = BASE_MODEL) -> None:
    """Propose and upload a folder."""
    files = [file.model_dump() for file in manifest_of_tree(folder).files]
    with http(api_url, operator_key) as operator:
        _sent(operator.post("/base_models", json={"id": name, "source": "made by a test", "files": files}))
        for file in files:
            content = (folder / file["path"]).read_bytes()
            headers = {"Content-Type": "application/octet-stream"}
            _sent(operator.put(f"/base_models/{name}/files/{file['path']}", content=content, headers=headers))


@pytest.fixture(scope="module")
def base_model(api_url: str, operator_key: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a base model that is ready."""
    folder = tmp_path_factory.mktemp("base") / BASE_MODEL
    write_base_model(folder)
    register_base_model(api_url, operator_key, folder)
    return BASE_MODEL


def rows(number: int, *, salt: int = 0) -> bytes:
    """A training file of so many conversations."""
    return b"".join(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": f"Is {place} even? ({salt})"},
                    {"role": "assistant", "content": "no" if place % 2 else "yes"},
                ]
            }
        ).encode()
        + b"\n"
        for place in range(number)
    )
