"""The table of bad inputs, where a request can hold them, and their neighbours: one error body, a stable code."""

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Department, rows

BODY_KEYS = {"message", "type", "param", "code"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def trainer(department: Department) -> Iterator[httpx.Client]:
    with department.http() as client:
        yield client


@pytest.fixture(scope="module")
def training_file(department: Department) -> str:
    return department.upload(rows(8))


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) - {"details"} == BODY_KEYS
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-should-retry"] == "false"
    return error


def deep(levels: int) -> bytes:
    return b'{"metadata":' + b"[" * levels + b"]" * levels + b"}"


BROKEN = [
    # What is sent, the code, and the param.
    (b'{"lora":{"learning_rate":NaN}}', "not_finite", "lora.learning_rate"),
    (b'{"lora":{"learning_rate":Infinity}}', "not_finite", "lora.learning_rate"),
    (b'{"lora":{"learning_rate":-Infinity}}', "not_finite", "lora.learning_rate"),
    (b'{"lora":{"learning_rate":1e400}}', "not_finite", "lora.learning_rate"),
    (b'{"seed":' + b"9" * 5000 + b"}", "not_finite", "seed"),
    (b'{"metadata":{"a":NaN}}', "not_finite", "metadata.a"),
    (b'{"suffix":"a\\u0000b"}', "control_character", "suffix"),
    (b'{"a\\u0000":1}', "control_character", None),
    (b'{"suffix":"\\ud800"}', "invalid_utf8", "suffix"),
    (b'{"seed":8,"seed":16}', "duplicate_key", "seed"),
    (deep(100_000), "too_deep", None),
    (deep(900), "too_deep", None),
    (deep(33), "too_deep", None),
    (b'{"suffix":"\xff"}', "invalid_utf8", None),
    (b"\xef\xbb\xbf{}", "bom", None),
    (b"", "invalid_json", None),
    (b"{", "invalid_json", None),
    (b"{} {}", "invalid_json", None),
    (b"[]", "wrong_type", "body"),
    (b"null", "wrong_type", "body"),
    (b'"x"', "wrong_type", "body"),
]


@pytest.mark.parametrize(("content", "code", "param"), BROKEN, ids=[str(place) for place in range(len(BROKEN))])
def test_a_broken_body_is_refused_by_name(trainer: httpx.Client, content: bytes, code: str, param: str | None) -> None:
    answer = trainer.post("/fine_tuning/jobs", content=content, headers=JSON)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"tenant_id": "x"}, "unknown_field", "tenant_id"),
    ({"output_dir": "/etc"}, "unknown_field", "output_dir"),
    ({"trust_remote_code": True}, "unknown_field", "trust_remote_code"),
    ({"lora": {"deepspeed": "/etc/passwd"}}, "unknown_field", "lora.deepspeed"),
    ({"lora": {"rank": True}}, "wrong_type", "lora.rank"),
    ({"lora": {"rank": "8"}}, "wrong_type", "lora.rank"),
    ({"lora": {"rank": 8.5}}, "wrong_type", "lora.rank"),
    ({"lora": {"rank": None}}, "wrong_type", "lora.rank"),
    ({"lora": {"rank": 0}}, "out_of_range", "lora.rank"),
    ({"lora": {"rank": -1}}, "out_of_range", "lora.rank"),
    ({"lora": {"rank": 257}}, "out_of_range", "lora.rank"),
    ({"lora": {"alpha": 0}}, "out_of_range", "lora.alpha"),
    ({"lora": {"dropout": 1.0}}, "out_of_range", "lora.dropout"),
    ({"lora": {"learning_rate": 0}}, "out_of_range", "lora.learning_rate"),
    ({"lora": {"learning_rate": 10}}, "out_of_range", "lora.learning_rate"),
    ({"lora": {"max_steps": 0}}, "out_of_range", "lora.max_steps"),
    ({"lora": {"max_seq_len": 257}}, "exceeds_base_model", "lora.max_seq_len"),
    ({"lora": {"target_modules": []}}, "out_of_range", "lora.target_modules"),
    ({"lora": {"target_modules": ["q_porj"]}}, "unknown_target_module", "lora.target_modules"),
    ({"lora": {"max_steps": 5}, "hyperparameters": {"n_epochs": 1}}, "conflicting_fields", "lora.max_steps"),
    ({"hyperparameters": {"n_epochs": 0}}, "out_of_range", "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": 51}}, "out_of_range", "hyperparameters.n_epochs"),
    ({"hyperparameters": {"batch_size": 257}}, "out_of_range", "hyperparameters.batch_size"),
    ({"hyperparameters": {"batch_size": "8"}}, "wrong_type", "hyperparameters.batch_size"),
    ({"hyperparameters": {"learning_rate_multiplier": 0}}, "out_of_range", "hyperparameters.learning_rate_multiplier"),
    ({"hyperparameters": {}, "method": {"type": "supervised"}}, "conflicting_fields", "hyperparameters"),
    ({"method": {"type": "dpo"}}, "invalid_request", "method.type"),
    ({"suffix": ""}, "out_of_range", "suffix"),
    ({"suffix": "x" * 65}, "out_of_range", "suffix"),
    ({"suffix": "a/b"}, "invalid_request", "suffix"),
    ({"suffix": "-a"}, "invalid_request", "suffix"),
    ({"suffix": "é"}, "invalid_request", "suffix"),
    ({"seed": -1}, "out_of_range", "seed"),
    ({"seed": 2**31}, "out_of_range", "seed"),
    ({"metadata": {"a": 1}}, "wrong_type", "metadata.a"),
    ({"metadata": {str(place): "x" for place in range(17)}}, "out_of_range", "metadata"),
    ({"metadata": {"a": "x" * 513}}, "out_of_range", "metadata.a"),
    ({"integrations": ["wandb"]}, "out_of_range", "integrations"),
    ({"model": "../../etc"}, "unknown_base_model", "model"),
    ({"model": "http://example.org/x"}, "unknown_base_model", "model"),
    ({"model": "org/x@main"}, "unknown_base_model", "model"),
    ({"model": "tiny "}, "unknown_base_model", "model"),
    ({"training_file": "9" * 22}, "unknown_file", "training_file"),
    ({"training_file": "file-../../etc"}, "unknown_file", "training_file"),
    ({"validation_file": "file-" + "0" * 32}, "unknown_file", "validation_file"),
]


@pytest.mark.parametrize(("fields", "code", "param"), FIELDS, ids=[json.dumps(fields)[:60] for fields, *_ in FIELDS])
def test_a_wrong_field_is_refused_by_name(
    *, trainer: httpx.Client, base_model: str, training_file: str, fields: dict[str, Any], code: str, param: str
) -> None:
    answer = trainer.post("/fine_tuning/jobs", json={"model": base_model, "training_file": training_file} | fields)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


def test_a_missing_field_is_refused_by_name(trainer: httpx.Client) -> None:
    error = error_of(trainer.post("/fine_tuning/jobs", json={}))
    assert (error["code"], error["param"]) == ("missing_field", "model")
    assert [finding["param"] for finding in error["details"]] == ["model", "training_file"]


def test_a_misspelt_layer_is_answered_with_the_likely_one(
    trainer: httpx.Client, base_model: str, training_file: str
) -> None:
    body = {"model": base_model, "training_file": training_file, "lora": {"target_modules": ["q_porj"]}}
    assert "Did you mean q_proj?" in error_of(trainer.post("/fine_tuning/jobs", json=body))["message"]


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Content-Type": "text/plain"}, b"{}"),
        ({}, b"{}"),
        (JSON | {"Content-Encoding": "gzip"}, gzip.compress(b" " * 10_000_000)),
    ],
    ids=["text", "no type", "compressed"],
)
def test_a_body_that_is_not_plain_json_is_refused(
    trainer: httpx.Client, headers: dict[str, str], content: bytes
) -> None:
    answer = trainer.post("/fine_tuning/jobs", content=content, headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (415, "unsupported_media_type")


def test_a_body_of_20_mb_is_refused_and_the_answer_arrives(trainer: httpx.Client) -> None:
    answer = trainer.post("/fine_tuning/jobs", content=b" " * 20_000_000, headers=JSON)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")


IDS = ["9" * 22, "x", "%00", "a%00b", "%2e%2e%2f%2e%2e%2fetc", "a%2Fb", "file-" + "z" * 32, "ftjob-" + "0" * 31,
       "%F0%9F%92%A3", "%ff%fe", "x" * 3000, "'; DROP TABLE jobs; --", "-1", "ftjob-" + "A" * 32]  # fmt: skip
WITH_ID = [
    "/files/{}", "/files/{}/content", "/fine_tuning/jobs/{}", "/fine_tuning/jobs/{}/events", "/models/{}",
    "/fine_tuning/jobs/{}/checkpoints", "/adapters/{}", "/adapters/{}/versions", "/adapters/{}/versions/{}",
    "/adapters/{}/versions/{}/content", "/lineage/{}", "/base_models/{}", "/organization/projects/{}",
    "/files?after={}", "/fine_tuning/jobs?after={}", "/adapters?after={}",
]  # fmt: skip


@pytest.mark.parametrize("template", WITH_ID)
def test_what_is_no_id_is_not_found(trainer: httpx.Client, template: str) -> None:
    for value in IDS:
        path = template.replace("{}", value if "?" not in template else value.replace("%00", "x"))
        answer = trainer.get(path)
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found"), path


@pytest.mark.parametrize("value", IDS)
def test_what_is_no_department_has_no_people(department: Department, value: str) -> None:
    # By an admin: whoever may see nobody's people is told that before anything is looked for.
    with department.http(department.admin) as admin:
        answer = admin.get(f"/organization/projects/{value}/users")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "out_of_range"),
        ("limit=101", "out_of_range"),
        ("limit=-1", "out_of_range"),
        ("limit=" + "9" * 30, "out_of_range"),
        ("limit=x", "wrong_type"),
        ("limit=", "wrong_type"),
        ("metadata[a]=%00", "control_character"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(trainer: httpx.Client, query: str, code: str) -> None:
    answer = trainer.get(f"/fine_tuning/jobs?{query}")
    assert (answer.status_code, error_of(answer)["code"]) == (400, code)


def test_an_unknown_parameter_is_ignored(trainer: httpx.Client) -> None:
    assert trainer.get("/fine_tuning/jobs?include=everything&metadata=null").is_success


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/files/", 404, "not_found"),
        ("GET", "/fine_tuning/jobs/x/y", 404, "not_found"),
        ("PATCH", "/files", 405, "method_not_allowed"),
        ("OPTIONS", "/files", 405, "method_not_allowed"),
        ("DELETE", "/fine_tuning/jobs/x", 405, "method_not_allowed"),
    ],
)
def test_unknown_paths_and_methods_have_the_same_body(
    *, trainer: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    answer = trainer.request(method, path)
    assert (answer.status_code, error_of(answer)["code"]) == (status, code)


def test_no_content_of_a_refused_body_comes_back(trainer: httpx.Client) -> None:
    secret = "the patient's name"
    for body in ({"seed": secret}, {"metadata": {"a": [secret]}}, {"model": secret, "training_file": secret}):
        assert secret not in trainer.post("/fine_tuning/jobs", json=body).text


def test_a_refused_request_leaves_nothing(
    trainer: httpx.Client, base_model: str, training_file: str, unchanged: Callable[..., Any]
) -> None:
    body = {"model": base_model, "training_file": training_file}
    with unchanged():
        for wrong in ({"model": "unknown"}, {"training_file": "file-" + "0" * 32}, {"lora": {"max_steps": 100_001}}):
            answer = trainer.post("/fine_tuning/jobs", json=body | wrong)
            assert error_of(answer)["code"] in {"unknown_base_model", "unknown_file", "job_too_large"}
