"""Adapters from elsewhere: what is let in, what is refused by which name, and what a refused one leaves behind."""

import io
import json
import struct
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.attestations import ATTESTATION_FILES
from runtime.wiring import Runtime
from signing import keys as signing_keys
from signing.keys import PublicKey
from signing.verification import verify
from tests.integration.api.conftest import Contents
from tests.integration.conftest import Department, rows

Q, DOWN = (f"base_model.model.model.layers.0.{layer}" for layer in ("self_attn.q_proj", "mlp.down_proj"))
CONFIG = {
    "base_model_name_or_path": "tiny", "peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none",
    "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", "megatron_core": "megatron.core",
    "auto_mapping": None, "modules_to_save": None, "loftq_config": {}, "peft_version": "0.21.2",
}  # fmt: skip
# Both layers of the base model that the fixtures register are 64 x 64.
SHAPES = {
    f"{layer}.lora_{which}.weight": shape for layer in (Q, DOWN) for which, shape in (("A", [2, 64]), ("B", [64, 2]))
}
Files = dict[str, bytes]


def weights(shapes: dict[str, list[int]] | None = None, *, value: float = 0.5, **entries: Any) -> bytes:
    """A safetensors file by the format's description. entries: what stands in the header instead."""
    header: dict[str, Any] = {}
    at = 0
    for name, shape in (shapes or SHAPES).items():
        end = at + 4 * shape[0] * shape[1]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header | entries).encode()
    return struct.pack("<Q", len(text)) + text + struct.pack("<f", value) * (at // 4)


def bundle(**changes: Any) -> Files:
    return {"adapter_config.json": json.dumps(CONFIG | changes).encode(), "adapter_model.safetensors": weights()}


def send(client: httpx.Client, name: str, files: Files, field: str = "files") -> httpx.Response:
    parts = [(field, (filename, content)) for filename, content in files.items()]
    return client.post(f"/adapters/{name}/imports", files=parts)


@pytest.fixture(scope="module")
def trainer(department: Department, base_model: str) -> Iterator[httpx.Client]:
    assert base_model == CONFIG["base_model_name_or_path"]
    with department.http() as client:
        yield client


def test_an_adapter_from_elsewhere_becomes_a_candidate(
    department: Department, trainer: httpx.Client, contents: Callable[[], Contents]
) -> None:
    before = contents()
    files = bundle() | {"tokenizer.json": b'{"version": "1.0"}', "special_tokens_map.json": b"{}"}
    answer = send(trainer, "brought", files)
    assert answer.is_success, answer.text
    version = answer.json()
    assert (version["adapter"], version["number"], version["state"]) == ("brought", 1, "candidate")
    assert (version["job_id"], version["metrics"], version["evaluation"]) == (None, None, [])
    assert (version["base_model"], version["created_by"]) == ("tiny", department.trainer.id)
    assert version["model"] == f"ft:tiny:acme:brought:{version['id'].removeprefix('adapterver-')}"
    assert [file["path"] for file in version["files"]] == sorted(files)
    assert trainer.get("/adapters/brought/versions/latest").json() == version
    told = contents().events - before.events
    assert dict(told) == {"adapter.version.imported": 1, "alias.moved": 1}
    edges = trainer.get(f"/lineage/{version['id']}").json()["edges"]
    assert {edge["relation"] for edge in edges if edge["subject"] == version["id"]} == {"grafted_on"}
    # The second one is the next version of the same adapter.
    assert send(trainer, "brought", files).json()["number"] == 2
    models = {model.id for model in department.client().models.list()}
    assert version["model"] in models


def test_an_imported_version_is_signed_and_pulled_like_any_other(
    department: Department, trainer: httpx.Client, tmp_path: Path
) -> None:
    files = bundle()
    version = send(trainer, "signed", files).raise_for_status().json()
    folder = pull(trainer, "signed", tmp_path / "first")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ATTESTATION_FILES} == files
    keys = [PublicKey.read(key["pem"].encode()) for key in trainer.get("/signing_keys").json()["data"]]
    found = verify(folder, keys, now=datetime.now(UTC))
    assert [(reason.code, reason.param) for reason in found.reasons] == [
        ("version_not_approved", "approval.intoto.jsonl")
    ]
    assert found.approval
    assert (found.digest, found.approval.state, found.approval.aliases) == (version["digest"], "candidate", ("latest",))
    assert found.builder == "urn:tsugiki:service:acme"

    # The statement is of the moment of the download: the same files, another standing, and who saw to that.
    approver = department.member("approver")
    asked = trainer.post("/approvals", json={"adapter": "signed", "version": "1"}).raise_for_status().json()
    with department.http(approver) as deciding:
        path = f"/approvals/{asked['id']}/decision"
        deciding.post(path, json={"decision": "approve", "digest": version["digest"]}).raise_for_status()
    later = verify(pull(trainer, "signed", tmp_path / "second"), keys, now=datetime.now(UTC))
    assert later.holds, later.reasons
    assert later.digest == found.digest
    assert later.approval
    assert [each.id for each in later.approval.approvers] == [approver.id]


def pull(client: httpx.Client, name: str, out: Path) -> Path:
    answer = client.get(f"/adapters/{name}/versions/latest/content").raise_for_status()
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        tar.extractall(out, filter="data")
    return out


def test_the_card_of_an_adapter_from_elsewhere_tells_what_is_known(
    department: Department, trainer: httpx.Client, base_model: str
) -> None:
    version = send(trainer, "carded", bundle()).raise_for_status().json()
    path = f"/adapters/carded/versions/{version['number']}/card"
    card = trainer.get(path).raise_for_status().json()
    assert (card["digest"], card["base_model"]["name"]) == (version["digest"], base_model)
    assert (card["training"]["trainer"], card["training"]["person"]) == (department.trainer.id, department.trainer.id)
    assert [card["training"][fact] for fact in ("job_id", "spec", "seed", "versions")] == [None] * 4
    assert (card["metrics"], card["data"], card["data_class"]) == (None, [], "internal")
    shown = trainer.get(path, params={"format": "markdown"}).raise_for_status().text
    assert "it was made elsewhere" in shown
    # It is approved as any other: by somebody who did not bring it here.
    asked = trainer.post("/approvals", json={"adapter": "carded", "version": str(version["number"])})
    assert asked.raise_for_status().json()["submitter"] == department.trainer.id


def test_the_public_key_is_anyones_who_has_a_key(department: Department, runtime: Runtime) -> None:
    for role in ("viewer", "inference"):
        with department.http(department.member(role)) as client:
            found = client.get("/signing_key").raise_for_status().json()
            assert found["key_id"] == runtime.signing_key.public.key_id
            assert PublicKey.read(found["pem"].encode()).key_id == found["key_id"]
            assert client.get("/signing_keys").json()["data"][0] == found


def test_a_key_that_another_has_followed_is_still_shown(
    trainer: httpx.Client, department: Department, api_with: Callable[..., str], tmp_path: Path
) -> None:
    send(trainer, "rotated", bundle()).raise_for_status()
    before = trainer.get("/signing_key").json()
    signing_keys.create(tmp_path / "next.pem")
    with httpx.Client(
        base_url=api_with(signing_key_file=tmp_path / "next.pem"),
        headers={"Authorization": f"Bearer {department.trainer.key}"},
    ) as client:
        listed = client.get("/signing_keys").json()["data"]
        assert [key["in_force"] for key in listed] == [True, False]
        assert listed[0]["key_id"] != before["key_id"]
        assert listed[1] == before | {"in_force": False}
        known = [PublicKey.read(key["pem"].encode()) for key in listed]
        found = verify(pull(client, "rotated", tmp_path / "out"), known, now=datetime.now(UTC))
    assert {reason.code for reason in found.reasons} == {"version_not_approved"}


def test_only_a_trainer_may_propose_one(department: Department, unchanged: Callable[..., Any]) -> None:
    for role in ("viewer", "data_steward", "department_admin", "approver", "inference"):
        person = department.member(role)
        with department.http(person) as client, unchanged(access_denied=1):
            answer = send(client, "brought", bundle())
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied"), role


def entry(**said: Any) -> bytes:
    """Weights whose first tensor says something else of itself."""
    good = {"dtype": "F32", "shape": [2, 64], "data_offsets": [0, 512]}
    return weights(**{f"{Q}.lora_A.weight": good | said})


def beside(name: str, content: bytes) -> Files:
    return bundle() | {name: content}


def weighing(content: bytes) -> Files:
    return bundle() | {"adapter_model.safetensors": content}


def long_header(length: int, padding: int = 0) -> bytes:
    return struct.pack("<Q", length) + b"{" + b" " * padding


PICKLE = (
    b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R."
)
FIRST, LAST = f"{Q}.lora_A.weight", f"{DOWN}.lora_B.weight"
BASE, KEY, CONFIGURATION = "base_model_name_or_path", "forbidden_config_key", "adapter_config.json"
HOSTILE: list[tuple[str, Files, str, str | None]] = [
    # What it is, the files, the code, and the param.
    ("a pickle beside it", beside("adapter_model.bin", PICKLE), "forbidden_file", "adapter_model.bin"),
    ("a pickle by its name", beside("adapter_model.pkl", b""), "forbidden_file", "adapter_model.pkl"),
    ("code", beside("modeling.py", b"import os"), "forbidden_file", "modeling.py"),
    ("a template", beside("chat_template.jinja", b"{{ x }}"), "forbidden_file", "chat_template.jinja"),
    ("a path that leaves", beside("../adapter_model.bin", b""), "forbidden_file", "adapter_model.bin"),
    ("a pickle as weights", weighing(PICKLE), "not_safetensors", None),
    ("no header", weighing(b"\x02\x00\x00"), "bad_header", None),
    ("2^63 bytes of header", weighing(long_header(2**63)), "bad_header", None),
    ("2 MiB of header", weighing(long_header(2 << 20, 2 << 20)), "header_too_large", None),
    ("trailing bytes", weighing(weights() + b"x"), "bad_layout", LAST),
    ("a negative offset", weighing(entry(data_offsets=[-512, 0])), "bad_layout", FIRST),
    ("integers", weighing(entry(dtype="I32")), "bad_layout", FIRST),
    ("NaN", weighing(weights(value=float("nan"))), "non_finite_weights", FIRST),
    ("infinity", weighing(weights(value=float("-inf"))), "non_finite_weights", FIRST),
    ("another rank", bundle(r=4), "shape_mismatch", FIRST),
    ("another width", weighing(weights(SHAPES | {LAST: [32, 2]})), "shape_mismatch", LAST),
    ("auto_mapping", bundle(auto_mapping={"parent_library": "os"}), KEY, "auto_mapping"),
    ("megatron_core", bundle(megatron_core="os"), KEY, "megatron_core"),
    ("layer_replication", bundle(layer_replication=[[0, 9]]), KEY, "layer_replication"),
    ("runtime_config", bundle(runtime_config={}), KEY, "runtime_config"),
    ("loftq", bundle(loftq_config={"loftq_bits": 4}), KEY, "loftq_config"),
    ("modules_to_save", bundle(modules_to_save=["lm_head"]), KEY, "modules_to_save"),
    ("a revision", bundle(revision="main"), KEY, "revision"),
    ("an unknown key", bundle(trust_remote_code=True), KEY, "trust_remote_code"),
    ("a hub id", bundle(base_model_name_or_path="org/model"), "base_model_mismatch", BASE),
    ("a path", bundle(base_model_name_or_path="../../etc"), "base_model_mismatch", BASE),
    ("an address", bundle(base_model_name_or_path="http://x/y"), "base_model_mismatch", BASE),
    ("two ranks", beside(CONFIGURATION, b'{"r": 2, "r": 4}'), "duplicate_key", CONFIGURATION),
    ("code in the tokenizer", beside("tokenizer_config.json", b'{"auto_map": {}}'), KEY,
     "tokenizer_config.json:auto_map"),
    ("no JSON for a tokenizer", beside("tokenizer.json", PICKLE), "wrong_type", "tokenizer.json"),
    ("no weights", {CONFIGURATION: json.dumps(CONFIG).encode()}, "missing_field", "adapter_model.safetensors"),
    ("no configuration", {"adapter_model.safetensors": weights()}, "missing_field", CONFIGURATION),
]  # fmt: skip


def test_a_hostile_adapter_is_refused_by_name_and_leaves_an_event_alone(
    trainer: httpx.Client, unchanged: Callable[..., Any], runtime: Runtime
) -> None:
    with unchanged(adapter_version_import_refused=len(HOSTILE)):
        for what, files, code, param in HOSTILE:
            answer = send(trainer, "hostile", files)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (400, code, param), what
    assert trainer.get("/adapters/hostile").status_code == 404
    # Nor is anything left on the disk.
    assert [path.name for path in (runtime.settings.work_dir / "runs").iterdir() if path.is_dir()] == []


def test_the_adapter_that_the_hostile_ones_were_made_from_is_taken(trainer: httpx.Client) -> None:
    assert send(trainer, "harmless", bundle()).is_success


def test_a_job_can_go_on_from_an_imported_version(department: Department, trainer: httpx.Client) -> None:
    version = send(trainer, "parent", bundle()).raise_for_status().json()
    body = {"model": version["model"], "training_file": department.upload(rows(4)), "suffix": "child"}
    job = trainer.post("/fine_tuning/jobs", json=body).raise_for_status().json()
    assert (job["lora"]["rank"], job["lora"]["target_modules"]) == (2, ["q_proj", "down_proj"])


def test_weights_that_were_here_before_are_known_again(
    department: Department, trainer: httpx.Client, contents: Callable[[], Contents]
) -> None:
    files = bundle() | {"adapter_model.safetensors": weights(value=0.25)}
    project = f"/organization/projects/{department.id}"
    with department.http(department.admin) as admin:
        admin.post(project, json={"default_data_class": "restricted"}).raise_for_status()
        first = send(trainer, "secret", files).raise_for_status().json()
        admin.post(project, json={"default_data_class": "internal"}).raise_for_status()
    again = send(trainer, "brought-back", files | {"tokenizer.json": b"{}"}).raise_for_status().json()
    assert (first["data_class"], again["data_class"]) == ("restricted", "restricted")
    edges = trainer.get(f"/lineage/{again['id']}", params={"direction": "up"}).json()["edges"]
    assert {(edge["relation"], edge["object"]) for edge in edges if edge["subject"] == again["id"]} >= {
        ("continued_from", first["id"])
    }
    other = bundle() | {"adapter_model.safetensors": weights(value=0.125)}
    assert send(trainer, "brought-back", other).raise_for_status().json()["data_class"] == "internal"

    with department.http(department.member("approver")) as approver:
        path = "/adapters/secret/versions/1/revoke"
        approver.post(path, json={"reason": "It says too much."}).raise_for_status()
    before = contents()
    refused = send(trainer, "brought-back", files)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "version_withdrawn")
    assert dict(contents().events - before.events) == {"adapter.version.import_refused": 1}


def test_its_card_says_what_is_known_and_the_rest_is_not_invented(trainer: httpx.Client) -> None:
    send(trainer, "carded", bundle()).raise_for_status()
    card = trainer.get("/adapters/carded/versions/1/card").raise_for_status().json()
    assert (card["base_model"]["name"], card["data"], card["metrics"], card["evaluations"]) == ("tiny", [], None, [])
    shown = trainer.get("/adapters/carded/versions/1/card", headers={"accept": "text/markdown"}).raise_for_status()
    assert "carded" in shown.text


def test_a_refusal_is_in_the_trail_with_its_code(trainer: httpx.Client, department: Department) -> None:
    send(trainer, "hostile", bundle(revision="main"))
    asked = {"event_types[]": "adapter.version.import_refused", "limit": 1}
    (event,) = trainer.get("/organization/audit_logs", params=asked).json()["data"]
    assert (event["outcome"], event["reason"]) == ("failure", "forbidden_config_key")
    assert event["actor"]["api_key"]["user"]["id"] == department.trainer.id


def test_what_is_no_upload_of_files_is_refused(trainer: httpx.Client) -> None:
    for options, status, code in (
        ({"json": {}}, 415, "unsupported_media_type"),
        ({"files": [("file", ("adapter_config.json", b"{}"))]}, 400, "unknown_field"),
        ({"files": [("files", ("adapter_config.json", b"{}"))] * 2}, 400, "duplicate_key"),
        ({"files": [("files", ("adapter_config.json", b"{}"))], "data": {"base_model": "tiny"}}, 400, "unknown_field"),
        ({"files": [("files", ("adapter_config.json", b" " * (1 << 20) + b"{}"))]}, 413, "body_too_large"),
        ({"files": [("files", ("adapter_model.safetensors", bytes((4 << 20) + 1)))]}, 413, "body_too_large"),
    ):
        answer = trainer.post("/adapters/odd/imports", **options)  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    answer = trainer.post("/adapters/-bad-/imports", files=[("files", ("adapter_config.json", b"{}"))])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "name")


def test_a_full_department_is_told_and_nothing_is_stored(
    make_department: Callable[[], Department], operator_key: str, api_url: str, unchanged: Callable[..., Any]
) -> None:
    department = make_department()
    with httpx.Client(base_url=api_url, headers={"Authorization": f"Bearer {operator_key}"}) as operator:
        path = f"/organization/projects/{department.id}/limits"
        operator.post(path, json={"max_storage_bytes": 1000}).raise_for_status()
    with department.http() as client, unchanged(access_denied=1):
        answer = send(client, "large", bundle())
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")
