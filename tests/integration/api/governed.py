"""A department in which versions are made, asked for and decided about: its people, and what they do, over the API."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from tests.integration.conftest import Department, Person, http, rows


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, answer.json()["error"]["code"]


@dataclass
class Governed:
    """People of a department, each with a key: `self("approver")` is a client of theirs."""

    department: Department
    base_model: str
    finish: Callable[..., None]
    people: dict[str, Person] = field(default_factory=dict)
    clients: dict[str, httpx.Client] = field(default_factory=dict)
    salts: Any = field(default_factory=count)

    def person(self, name: str) -> Person:
        """By a name that begins with their role: `approver`, `approver 2`."""
        if name not in self.people:
            given = {"admin": self.department.admin, "trainer": self.department.trainer}
            self.people[name] = given.get(name) or self.department.member(*name.rstrip(" 0123456789").split("+"))
        return self.people[name]

    def __call__(self, name: str) -> httpx.Client:
        if name not in self.clients:
            self.clients[name] = self.department.http(self.person(name))
        return self.clients[name]

    def now_approves(self, name: str) -> None:
        """They are an approver from now on, and nothing else: their past stays theirs."""
        department, user = self.department, self.person(name).id
        sent(self("admin").post(f"/organization/projects/{department.id}/users/{user}", json={"roles": ["viewer"]}))
        with http(department.api_url, department.operator_key, openai_project=department.id) as operator:
            sent(operator.post("/organization/role_grants", json={"user_id": user, "role": "approver"}))
            # The keys that they had have ended.
            made = operator.post(
                f"/organization/projects/{department.id}/api_keys", json={"user_id": user, "name": "n"}
            )
        self.clients.pop(name).close()
        self.people[name] = Person(user, sent(made)["value"])

    def close(self) -> None:
        for client in self.clients.values():
            client.close()

    def train(self, adapter: str, *, by: str = "trainer", data_class: str | None = None) -> dict[str, Any]:
        """A new candidate of an adapter."""
        client = self(by)
        form = {"purpose": "fine-tune"} | ({"data_class": data_class} if data_class else {})
        content = rows(8, salt=next(self.salts))
        file = sent(self("trainer").post("/files", data=form, files={"file": ("rows.jsonl", content)}))["id"]
        body = {"model": self.base_model, "training_file": file, "suffix": adapter, "evaluation_file": file}
        job = sent(client.post("/fine_tuning/jobs", json=body))["id"]
        self.finish(self.department, job)
        return sent(client.get(f"/adapters/{adapter}/versions/latest"))

    def request(self, version: dict[str, Any], *, by: str = "trainer", **more: object) -> dict[str, Any]:
        body = {"adapter": version["adapter"], "version": str(version["number"])} | more
        return sent(self(by).post("/approvals", json=body))

    def decide(
        self, approval: dict[str, Any], decision: str = "approve", *, by: str = "approver", **more: object
    ) -> httpx.Response:
        body = {"decision": decision, "digest": approval["digest"]} | more
        return self(by).post(f"/approvals/{approval['id']}/decision", json=body)

    def approved(self, adapter: str, **options: Any) -> dict[str, Any]:
        """A version that somebody else has approved."""
        version = self.train(adapter, **options)
        sent(self.decide(self.request(version)))
        return self.version(version)

    def version(self, version: dict[str, Any], *, by: str = "trainer") -> dict[str, Any]:
        return sent(self(by).get(f"/adapters/{version['adapter']}/versions/{version['number']}"))

    def move(
        self, alias: str, version: dict[str, Any], *, by: str = "admin", if_match: str | None = None
    ) -> httpx.Response:
        """Let an alias stand for a version, which it is believed to be new for where no ETag is given."""
        headers = {"If-None-Match": "*"} if if_match is None else {"If-Match": f'"{if_match}"'}
        path = f"/adapters/{version['adapter']}/aliases/{alias}"
        return self(by).put(path, json={"version": version["number"]}, headers=headers)

    def end(self, version: dict[str, Any], verb: str = "revoke", *, by: str = "trainer") -> httpx.Response:
        path = f"/adapters/{version['adapter']}/versions/{version['number']}/{verb}"
        return self(by).post(path, json={"reason": "It is not to be served."})

    def pull(self, version: dict[str, Any], *, by: str = "trainer") -> httpx.Response:
        return self(by).get(f"/adapters/{version['adapter']}/versions/{version['number']}/content")


def sent(answer: httpx.Response) -> dict[str, Any]:
    assert answer.is_success, answer.text
    body: dict[str, Any] = answer.json()
    return body
