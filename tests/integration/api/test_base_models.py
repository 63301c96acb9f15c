import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from domain.digests import digest_of, manifest_of_tree
from tests.integration.conftest import TINY_CONFIG, Department, http, register_base_model, write_base_model

OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def operator(api_url: str, operator_key: str) -> Iterator[httpx.Client]:
    with http(api_url, operator_key) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "tiny"
    write_base_model(path)
    return path


def proposal(folder: Path, name: str) -> dict[str, Any]:
    return {"id": name, "source": "a test", "files": [file.model_dump() for file in manifest_of_tree(folder).files]}


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_base_model_is_ready_with_its_last_file_and_says_what_it_is(operator: httpx.Client, folder: Path) -> None:
    proposed = operator.post("/base_models", json=proposal(folder, "whole")).raise_for_status().json()
    assert (proposed["id"], proposed["object"], proposed["status"]) == ("whole", "base_model", "uploading")
    states = []
    for file in proposed["files"]:
        path = f"/base_models/whole/files/{file['path']}"
        states.append(operator.put(path, content=(folder / file["path"]).read_bytes(), headers=OCTETS).json()["status"])
    assert states == ["uploading"] * 3 + ["ready"]
    found = operator.get("/base_models/whole").json()
    assert found["facts"] | TINY_CONFIG == found["facts"]
    # 128·64 + 2·64·64 + 64, and the last names of the matrices of a numbered layer.
    assert (found["facts"]["parameters"], found["facts"]["linear_modules"]) == (16448, ["down_proj", "q_proj"])
    assert all(file["uploaded"] for file in found["files"])
    assert operator.post("/base_models", json=proposal(folder, "whole")).json()["status"] == "ready"


def test_a_base_model_that_is_not_ready_cannot_be_trained_on(
    operator: httpx.Client, folder: Path, department: Department
) -> None:
    operator.post("/base_models", json=proposal(folder, "partial")).raise_for_status()
    with department.http() as client:
        assert client.get("/models/partial").status_code == 404
        body = {"model": "partial", "training_file": "file-" + "0" * 32}
        assert code_of(client.post("/fine_tuning/jobs", json=body)) == (400, "unknown_base_model")


def test_a_name_never_stands_for_other_files(operator: httpx.Client, folder: Path) -> None:
    operator.post("/base_models", json=proposal(folder, "fixed")).raise_for_status()
    other = proposal(folder, "fixed")
    other["files"][0]["digest"] = "sha256:" + "0" * 64
    assert code_of(operator.post("/base_models", json=other)) == (409, "base_model_differs")


@pytest.mark.parametrize("content", [b"{}", b"x" * 1000, b""], ids=["other bytes", "too many", "none"])
def test_bytes_that_are_not_those_of_the_manifest_are_refused(
    operator: httpx.Client, folder: Path, unchanged: Callable[..., Any], content: bytes
) -> None:
    operator.post("/base_models", json=proposal(folder, "strict")).raise_for_status()
    with unchanged():
        answer = operator.put("/base_models/strict/files/config.json", content=content, headers=OCTETS)
    assert code_of(answer) == (400, "checksum_mismatch")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("config.json", b"[]"),
        ("config.json", b'{"auto_map":{}}'),
        ("config.json", b'{"model_type":"llama"}'),
        ("config.json", b'{"text_config":"hidden_size"}'),
        ("model.safetensors", struct.pack("<Q", 100_000) + b"[" * 100_000),
        ("model.safetensors", struct.pack("<Q", 20) + b'{"a":{"shape":[-1]}}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"1234567"),
        ("model.safetensors", struct.pack("<Q", 2**63) + b"{}"),
        ("model.safetensors", struct.pack("<Q", 1000) + b"{}"),
        ("model.safetensors", struct.pack("<Q", 7) + b'{"a":1}'),
        ("model.safetensors", b"\x80\x04 a pickle, renamed"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(
    operator: httpx.Client, folder: Path, path: str, content: bytes
) -> None:
    name = f"odd-{digest_of(content)[-8:]}"
    wanted = proposal(folder, name)
    file = next(file for file in wanted["files"] if file["path"] == path)
    file |= {"bytes": len(content), "digest": digest_of(content)}
    operator.post("/base_models", json=wanted).raise_for_status()
    answer = operator.put(f"/base_models/{name}/files/{path}", content=content, headers=OCTETS)
    assert answer.status_code == 400, answer.text
    assert operator.get(f"/base_models/{name}").json()["status"] == "uploading"


@pytest.mark.parametrize(
    "path",
    ["../config.json", "/etc/passwd", "a/../b.json", ".hidden.json", "pytorch_model.bin", "modeling.py", "a\x00b"],
)
def test_a_manifest_with_an_odd_path_is_refused(operator: httpx.Client, folder: Path, path: str) -> None:
    wanted = proposal(folder, "odd-path")
    wanted["files"].append({"path": path, "bytes": 1, "digest": "sha256:" + "0" * 64})
    assert operator.post("/base_models", json=wanted).status_code == 400


@pytest.mark.parametrize("path", ["nothing.json", "../config.json", "%2e%2e/config.json", "a%00b", "x/" * 50])
def test_a_file_that_nobody_waits_for_is_not_found(operator: httpx.Client, base_model: str, path: str) -> None:
    answer = operator.put(f"/base_models/{base_model}/files/{path}", content=b"x", headers=OCTETS)
    assert code_of(answer) == (404, "not_found")


@pytest.mark.parametrize("name", ["../../etc", "http://x", "org/x@main", "", "a b", "x" * 65])
def test_an_odd_name_is_refused(operator: httpx.Client, folder: Path, name: str) -> None:
    assert operator.post("/base_models", json=proposal(folder, name)).status_code == 400


def test_departments_see_base_models_and_change_none(
    *, department: Department, base_model: str, folder: Path, api_url: str, operator_key: str
) -> None:
    register_base_model(api_url, operator_key, folder, "shared")
    with department.http(department.admin) as admin:
        assert {found["id"] for found in admin.get("/base_models").json()["data"]} >= {base_model, "shared"}
        assert admin.post("/base_models", json=proposal(folder, "mine")).status_code == 403
        assert admin.put("/base_models/shared/files/config.json", content=b"{}", headers=OCTETS).status_code == 403
