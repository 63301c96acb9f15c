"""Departments that submit jobs and erase files over HTTP, and ask again as a client does when they get no answer."""

import json
import random
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from pathlib import Path
from uuid import UUID

import httpx

from chaos.checker import Expected
from chaos.installation import Installation
from domain.digests import digest_of
from domain.ids import IdKind, parse_id, public_id
from domain.outgoing import OutgoingKind

BASE_MODEL = "none"
_ANSWER_WITHIN_S, _PREPARED_WITHIN_S = 20.0, 60.0
_RETRY_AFTER_S = 0.2
# From one file that is erased to the next.
_ERASE_AFTER_S = 2.0
# What a client repeats beside 5xx.
AGAIN = {HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
# Of the right shape, and without one weight: nothing is computed on it.
_BASE_FILES = {
    "config.json": b'{"model_type":"llama","hidden_size":64,"num_hidden_layers":1,"max_position_embeddings":256}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
}
_TENSORS = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.down_proj.weight")


@dataclass(frozen=True)
class Task:
    """What every job is: so many steps on a base model of these files."""

    base_model: Mapping[str, bytes] = field(repr=False)
    steps: int
    checkpoint_every: int


def real_task(folder: Path, *, steps: int, checkpoint_every: int) -> Task:
    """Jobs that train, on the base model of a folder."""
    return Task({path.name: path.read_bytes() for path in folder.iterdir()}, steps, checkpoint_every)


def _weights() -> bytes:
    """The safetensors format by hand: header, bytes."""
    size = 64 * 64 * 4
    header = {
        name: {"dtype": "F32", "shape": [64, 64], "data_offsets": [place * size, (place + 1) * size]}
        for place, name in enumerate(_TENSORS)
    }
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + bytes(size * len(_TENSORS))


# Without a weight that is anything but zero: for the short engine.
SHORT = Task(_BASE_FILES | {"model.safetensors": _weights()}, steps=12, checkpoint_every=3)


@dataclass(frozen=True)
class Customer:
    """A department's trainer, with a file to train on, and the key of its admin."""

    key: str
    file: str
    admin: str


@dataclass
class Workload:
    """What the departments do: `keep_busy` and `keep_erasing` each in a thread of its own."""

    installation: Installation
    departments: int
    seed: int
    task: Task = SHORT
    # Whether somebody hears of every event.
    hears: bool = True
    accepted: dict[str, str] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._random, self._tags = random.Random(self.seed), count()  # noqa: S311 - repeatable, not secret
        self._http = httpx.Client(base_url=self.installation.api_url, timeout=_ANSWER_WITHIN_S)
        self.customers: list[Customer] = []

    def prepare(self) -> None:
        """Somebody who hears of everything, a base model, the departments, and a file of each."""
        operator = self.installation.keys.operator
        if self.hears:
            everything = {"name": "chaos", "url": self.installation.receiver.url, "event_types": list(OutgoingKind)}
            self._post(operator, "/webhook_endpoints", everything)
        files = self.task.base_model
        listed = [
            {"path": path, "bytes": len(content), "digest": digest_of(content)} for path, content in files.items()
        ]
        self._post(operator, "/base_models", {"id": BASE_MODEL, "source": "chaos", "files": listed})
        for path, content in files.items():
            put = self._http.put(
                f"/base_models/{BASE_MODEL}/files/{path}",
                content=content,
                headers=_bearer(operator) | {"Content-Type": "application/octet-stream"},
                timeout=_PREPARED_WITHIN_S,
            )
            put.raise_for_status()
        self.customers = [self._customer(operator, number) for number in range(self.departments)]

    def _customer(self, operator: str, number: int) -> Customer:
        department = self._post(operator, "/organization/projects", {"name": f"department-{number}"})["id"]
        project = f"/organization/projects/{department}"
        keys: list[str] = []
        for role, roles in (("admin", ["department_admin"]), ("trainer", ["trainer", "data_steward"])):
            person = {"email": f"{role}@department-{number}.test", "name": role}
            user = self._post(operator, "/organization/users", person)["id"]
            maker = keys[0] if keys else operator
            self._post(maker, f"{project}/users", {"user_id": user, "roles": roles})
            keys.append(self._post(maker, f"{project}/api_keys", {"user_id": user, "name": role})["value"])
        return Customer(keys[1], self._upload(keys[1], str(number)), admin=keys[0])

    def _upload(self, key: str, reply: str) -> str:
        """A file of rows that end in this reply; its id."""
        row = {"messages": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": reply}]}
        content = (json.dumps(row) + "\n").encode() * 8
        rows, purpose = {"file": ("rows.jsonl", content)}, {"purpose": "fine-tune"}
        return self._sent("POST", key, "/files", files=rows, data=purpose)["id"]

    def submit(self, suffix: str | None = None) -> str | None:
        """Submit one job of a random department; its id, or None where no answer came for so long."""
        customer = self._random.choice(self.customers)
        return self._submit(customer, customer.file, suffix)

    def _submit(self, customer: Customer, file: str, suffix: str | None = None) -> str | None:
        tag = str(next(self._tags))
        body = {
            "model": BASE_MODEL,
            "training_file": file,
            "suffix": suffix or self._random.choice(("first", "second")),
            "metadata": {"request": tag},
            "hyperparameters": {"batch_size": 2},
            "lora": {
                "max_steps": self.task.steps,
                "checkpoint_every_steps": self.task.checkpoint_every,
                # What rows come to is kept for each length: so they are looked at again.
                "max_seq_len": self._random.randrange(64, 256),
            },
        }
        self.tried.add(tag)
        deadline = time.monotonic() + _ANSWER_WITHIN_S
        while True:
            try:
                answer = self._http.post(
                    "/fine_tuning/jobs",
                    json=body,
                    headers=_bearer(customer.key) | {"Idempotency-Key": f"request-{tag}"},
                )
            except httpx.TransportError:
                answer = None
            if answer is not None and not _ask_again(answer):
                self.accepted[tag] = str(parse_id(IdKind.JOB, answer.raise_for_status().json()["id"]))
                return self.accepted[tag]
            if time.monotonic() > deadline:
                return None
            time.sleep(_RETRY_AFTER_S)

    def cancel(self, job: str, customer: Customer) -> None:
        """Ask for a job's end. Raises what httpx does where it is refused."""
        self._post(customer.key, f"/fine_tuning/jobs/{public_id(IdKind.JOB, UUID(job))}/cancel", {})

    def keep_busy(self, unfinished: int, enough: threading.Event) -> None:
        """Have so many jobs unfinished until it is enough."""
        while not enough.is_set():
            if self.installation.checker.unfinished() < unfinished:
                self.submit()
            else:
                enough.wait(_RETRY_AFTER_S)

    def keep_erasing(self, enough: threading.Event) -> None:
        """Have files erased, each while a job reads it, until it is enough."""
        chance = random.Random(self.seed)  # noqa: S311 - repeatable, not secret
        while not enough.wait(_ERASE_AFTER_S):
            # No answer, or another one than hoped for: as people do, they begin anew with another file.
            with suppress(httpx.HTTPError):
                self.erase(chance.choice(self.customers), chance.choice(("stop", "finish")))

    def erase(self, customer: Customer, running_jobs: str) -> str:
        """Train on a file, and have it erased by two people; the erasure's id. Raises what httpx does."""
        file = self._upload(customer.key, f"erase {next(self._tags)}")
        self._submit(customer, file)
        wanted = {"reason": "chaos", "running_jobs": running_jobs}
        asked = self._post(customer.key, f"/files/{file}/erasures", wanted)
        self._post(customer.admin, f"/erasures/{asked['id']}/confirm", {"digest": asked["digest"]})
        return asked["id"]

    @property
    def expected(self) -> Expected:
        """What the checker is to find."""
        steps = dict.fromkeys(self.accepted.values(), self.task.steps) if self.task is SHORT else {}
        return Expected(
            accepted=frozenset(self.accepted),
            tried=frozenset(self.tried),
            steps=steps,
            heard=frozenset(str(parse_id(IdKind.OUTGOING_EVENT, each)) for each in self.installation.receiver.heard),
        )

    def close(self) -> None:
        """Give back connections."""
        self._http.close()

    def _post(self, key: str, path: str, body: object) -> dict[str, str]:
        return self._sent("POST", key, path, json=body)

    def _sent(self, method: str, key: str, path: str, **more: object) -> dict[str, str]:
        answer = self._http.request(method, path, headers=_bearer(key), timeout=_PREPARED_WITHIN_S, **more)  # type: ignore[arg-type]
        made: dict[str, str] = answer.raise_for_status().json()
        return made


def _ask_again(answer: httpx.Response) -> bool:
    return answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR or answer.status_code in AGAIN


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
