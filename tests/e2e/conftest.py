import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 180
BASE_MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class RunningService:
    """`tsugiki up` in the foreground of a child of ours, and what its endpoint.json says."""

    process: subprocess.Popen[bytes]
    directory: Path
    base_url: str
    admin_key: str
    auditor_key: str

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base_url, api_key=key, max_retries=2)

    def http(self, key: str, department: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} | ({"OpenAI-Project": department} if department else {})
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=60)


@dataclass(frozen=True)
class Department:
    id: str
    name: str
    admin_key: str
    trainer_key: str


def start_service(directory: Path, *, workers: int = 1, **settings: str) -> RunningService:
    """Start `tsugiki up` and wait until it says where it lives."""
    log = directory.with_name(f"{directory.name}.log")
    environment = os.environ | {f"TSUGIKI_{name.upper()}": value for name, value in settings.items()}
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("tsugiki")), "up", "--dir", str(directory), "--port", "0",
             "--workers", str(workers)],
            cwd=ROOT, env=environment, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    endpoint = directory / "endpoint.json"
    deadline = time.monotonic() + START_TIMEOUT_S
    while not endpoint.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            pytest.fail(log.read_text()[-4000:])
        time.sleep(0.1)
    assert endpoint.stat().st_mode & 0o777 == 0o600
    said = json.loads(endpoint.read_text())
    return RunningService(process=process, directory=directory, **said)


def stop_service(service: RunningService) -> int:
    """SIGTERM, and the exit status; it has 15 s."""
    service.process.send_signal(signal.SIGTERM)
    return service.process.wait(timeout=20)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, smollm2_folder: Path) -> Iterator[RunningService]:
    """One running service for the whole session, with the real base model registered."""
    running = start_service(
        tmp_path_factory.mktemp("service") / "data", precision="fp32", price_per_gpu_hour="3.6", currency="eur"
    )
    try:
        subprocess.run(
            [str(Path(sys.executable).with_name("tsugiki")), "base-models", "add", BASE_MODEL, "--from",
             str(smollm2_folder)],
            env=os.environ | {"TSUGIKI_BASE_URL": running.base_url, "TSUGIKI_API_KEY": running.admin_key},
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        yield running
        assert stop_service(running) == 0
    finally:
        running.process.kill()
        running.process.wait()


def make_department(service: RunningService, name: str) -> Department:
    """A department with an admin, named by the operator, and a trainer, named by the admin."""
    with service.http(service.admin_key) as operator:
        department = _created(operator.post("/organization/projects", json={"name": name}))["id"]
        admin = _created(operator.post("/organization/users", json={"email": f"admin@{name}.test", "name": "Admin"}))
        trainer = _created(operator.post("/organization/users", json={"email": f"t@{name}.test", "name": "Trainer"}))
        people, keys = (f"/organization/projects/{department}/{noun}" for noun in ("users", "api_keys"))
        _created(operator.post(people, json={"user_id": admin["id"], "roles": ["department_admin"]}))
        admin_key = _created(operator.post(keys, json={"user_id": admin["id"], "name": "admin"}))["value"]
    with service.http(admin_key) as http:
        _created(http.post(people, json={"user_id": trainer["id"], "roles": ["trainer", "data_steward"]}))
        trainer_key = _created(http.post(keys, json={"user_id": trainer["id"], "name": "trainer"}))["value"]
    return Department(id=department, name=name, admin_key=admin_key, trainer_key=trainer_key)


def _created(answer: httpx.Response) -> dict[str, str]:
    assert answer.is_success, answer.text
    created: dict[str, str] = answer.json()
    return created


COLOURS = ("red", "green", "blue", "white", "black")


def colour_rows(count: int, *, seed: int, choices: bool = False) -> list[dict[str, object]]:
    """Conversations with a rule to learn: the answer is the colour of the last box, in words of our own."""
    rng = random.Random(seed)
    rows: list[dict[str, object]] = []
    for _ in range(count):
        boxes = [rng.choice(COLOURS) for _ in range(rng.randint(1, 4))]
        messages = [
            {"role": "system", "content": "Which colour?"},
            {"role": "user", "content": "Boxes from left to right: " + ", ".join(boxes) + ". The last one?"},
            {"role": "assistant", "content": boxes[-1]},
        ]
        rows.append({"messages": messages} | ({"choices": list(COLOURS)} if choices else {}))
    return rows


def as_jsonl(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
