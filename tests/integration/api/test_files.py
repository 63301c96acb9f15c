import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from sqlalchemy import func, update

from domain.digests import digest_of
from domain.ids import IdKind, parse_id
from models_db.retention import Erasure
from runtime.wiring import Runtime
from tests.integration.conftest import Department, rows

ROW = b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n'


@pytest.fixture(scope="module")
def trainer(department: Department) -> Iterator[httpx.Client]:
    with department.http() as client:
        yield client


def upload(client: httpx.Client, content: bytes, *, filename: str = "rows.jsonl", **fields: str) -> httpx.Response:
    return client.post("/files", files={"file": (filename, content)}, data={"purpose": "fine-tune"} | fields)


def row(**changes: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]} | changes
                      ).encode() + b"\n"  # fmt: skip


def message(**changes: object) -> bytes:
    return row(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"} | changes])


BAD = [
    # The content, the code, and the param.
    (b"", "dataset_empty", "rows.jsonl"),
    (b"\n \n\r\n", "dataset_empty", "rows.jsonl"),
    (ROW + b'{"messages":' + b" " * (1 << 20) + b"[]}\n", "line_too_long", "rows.jsonl:2"),
    (ROW * 6 + b'{"messages":[{"role":"user","content":"\xff"}]}\n', "invalid_utf8", "rows.jsonl:7"),
    (b'{"messages":[{"role":"user","role":"assistant","content":"x"}]}\n', "duplicate_key", "rows.jsonl:1"),
    (ROW + b'{"messages":[{"role":"user","content":NaN}]}\n', "invalid_json", "rows.jsonl:2"),
    (b"[" + ROW.strip() + b"]", "expected_jsonl", "rows.jsonl:1"),
    (b"{\n", "invalid_json", "rows.jsonl:1"),
    (b"1\n", "expected_jsonl", "rows.jsonl:1"),
    (b'{"messages":[]}\n', "bad_message", "rows.jsonl:1"),
    (row(prompt="x"), "unknown_field", "rows.jsonl:1"),
    (message(role="tool"), "bad_message", "rows.jsonl:1"),
    (message(role="user"), "bad_message", "rows.jsonl:1"),
    (message(content=""), "bad_message", "rows.jsonl:1"),
    (message(content=None), "bad_message", "rows.jsonl:1"),
    (message(content=1), "bad_message", "rows.jsonl:1"),
    (message(weight=2), "bad_message", "rows.jsonl:1"),
    (message(weight=0), "bad_message", "rows.jsonl:1"),
    (message(name="x"), "bad_message", "rows.jsonl:1"),
    (b"\x80\x04\x95rest of a pickle", "not_jsonl", "rows.jsonl"),
    (b"PK\x03\x04rest of a zip", "not_jsonl", "rows.jsonl"),
]


@pytest.mark.parametrize(("content", "code", "param"), BAD, ids=[f"{place} {bad[1]}" for place, bad in enumerate(BAD)])
def test_a_bad_file_is_refused_at_its_line_and_nothing_is_kept(
    *, trainer: httpx.Client, unchanged: Callable[..., Any], content: bytes, code: str, param: str
) -> None:
    with unchanged():
        answer = upload(trainer, content)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


def test_up_to_100_problems_are_told_at_once(trainer: httpx.Client) -> None:
    error = upload(trainer, b"{}\n" * 300).json()["error"]
    assert error["param"] == "rows.jsonl:1"
    assert [finding["param"] for finding in error["details"]] == [f"rows.jsonl:{line}" for line in range(1, 101)]


@pytest.mark.parametrize(
    ("content", "counted"),
    [
        (ROW.strip(), 1),
        (ROW.replace(b"\n", b"\r\n") * 2, 2),
        (b"\xef\xbb\xbf" + ROW, 1),
        (ROW + b"\n\n" + row(messages=[{"role": "system", "content": "s"}, {"role": "assistant", "content": "b"}]), 2),
    ],
    ids=["no last line break", "CRLF", "BOM", "blank lines"],
)
def test_what_editors_leave_behind_is_accepted(trainer: httpx.Client, content: bytes, counted: int) -> None:
    assert upload(trainer, content).json()["rows"] == counted


def test_duplicate_rows_are_counted_not_refused(trainer: httpx.Client) -> None:
    found = upload(trainer, ROW * 3).json()
    assert (found["rows"], found["duplicate_rows"]) == (3, 2)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"purpose": "assistants"}, "invalid_request", "purpose"),
        ({"purpose": ""}, "invalid_request", "purpose"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}, "unknown_field",
         "expires_after[anchor]"),
        ({"purpose": "x" * 5000}, "out_of_range", "purpose"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_refused(
    *, trainer: httpx.Client, unchanged: Callable[..., Any], fields: dict[str, str], code: str, param: str
) -> None:
    with unchanged():
        answer = upload(trainer, ROW, **fields)
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]) == (400, code, param)


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=x"),
        (b"garbage", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n{}", "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data; name=purpose\r\n\r\nfine-tune\r\n--x--\r\n",
         "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data; name=other; filename=a\r\n\r\n{}\r\n--x--\r\n",
         "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\nnothing\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (b"--x--", "multipart/form-data; boundary=" + "x" * 300),
    ],
)  # fmt: skip
def test_a_malformed_form_is_refused(
    trainer: httpx.Client, unchanged: Callable[..., Any], content: bytes, content_type: str
) -> None:
    with unchanged():
        answer = trainer.post("/files", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == 400, answer.text


def test_json_is_no_form(trainer: httpx.Client) -> None:
    answer = trainer.post("/files", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_a_file_above_the_limit_is_refused_while_it_comes(trainer: httpx.Client, unchanged: Callable[..., Any]) -> None:
    with unchanged():
        answer = upload(trainer, ROW * ((4 << 20) // len(ROW) + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_a_file_of_exactly_the_limit_is_accepted(trainer: httpx.Client) -> None:
    assert upload(trainer, (ROW * ((4 << 20) // len(ROW))).ljust(4 << 20, b"\n")).json()["bytes"] == 4 << 20


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\rows.jsonl", "rows.jsonl"),
        ("..", "upload"),
        ("日本.jsonl", "日本.jsonl"),
    ],
)
def test_a_file_name_is_a_label(trainer: httpx.Client, given: str, kept: str) -> None:
    assert upload(trainer, ROW, filename=given).json()["filename"] == kept


def test_who_may_not_upload_is_told_before_the_body_is_read(
    department: Department, unchanged: Callable[..., Any]
) -> None:
    viewer = department.member("viewer")
    with department.http(viewer) as client, unchanged(access_denied=1):
        answer = client.post("/files", content=b"never read", headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")


def test_only_a_data_steward_reads_content_and_each_reading_is_recorded(
    department: Department, unchanged: Callable[..., Any]
) -> None:
    file = department.upload(rows(3, salt=1))
    trainer_only = department.member("trainer")
    with unchanged(file_read=1):
        assert department.client().files.content(file).read() == rows(3, salt=1)
    with unchanged(access_denied=1), pytest.raises(openai.PermissionDeniedError):
        department.client(trainer_only).files.content(file)


def test_files_are_listed_a_page_at_a_time_in_both_orders(make_department: Callable[[], Department]) -> None:
    department = make_department()
    made = [department.upload(rows(2, salt=salt)) for salt in range(5)]
    client = department.client()
    assert [file.id for file in client.files.list(limit=2)] == made[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == made
    first = client.files.list(limit=2)
    for file in first.data:
        client.files.delete(file.id)
    # The page after one whose last file is gone by now.
    assert [file.id for file in client.files.list(limit=2, after=first.data[-1].id)] == made[2::-1]
    assert list(client.files.list(purpose="assistants")) == []


def test_deleting_a_file_erases_its_bytes_once_nothing_needs_them(
    make_department: Callable[[], Department], base_model: str, contents: Callable[[], Any]
) -> None:
    department = make_department()
    client, before = department.client(), contents().objects
    first, second = department.upload(rows(4)), department.upload(rows(4))
    (added,) = contents().objects - before
    job = client.fine_tuning.jobs.create(model=base_model, training_file=first)
    with pytest.raises(openai.ConflictError) as refused:
        client.files.delete(first)
    assert refused.value.code == "in_use"
    client.fine_tuning.jobs.cancel(job.id)
    client.files.delete(first)
    assert added in contents().objects
    client.files.delete(second)
    assert contents().objects == before
    # Asked again, by a client that got no answer, it is as deleted as before.
    assert client.files.delete(second).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(second)


def test_bytes_uploaded_while_equal_ones_are_deleted_stay_readable(make_department: Callable[[], Department]) -> None:
    department = make_department()
    client = department.client()
    with ThreadPoolExecutor(2) as both:
        for salt in range(12):
            doomed = department.upload(rows(2, salt=salt))
            deleting = both.submit(client.files.delete, doomed)
            kept = both.submit(department.upload, rows(2, salt=salt)).result()
            deleting.result()
            assert client.files.content(kept).read() == rows(2, salt=salt)


def test_bytes_that_may_be_erased_at_any_moment_are_not_taken_yet(
    make_department: Callable[[], Department], runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    department, content, pending = make_department(), rows(2, salt=200), uuid4()
    key = parse_id(IdKind.DEPARTMENT, department.id)
    with runtime.department(key) as session:
        ends_at = func.now() + timedelta(minutes=16)
        session.add(Erasure(id=pending, department_id=key, digest=digest_of(content), ends_at=ends_at))
    monkeypatch.setattr("api.routes.files._TRIES", 2)
    with department.http() as client:
        refused = upload(client, content)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "service_unavailable")
        assert "x-should-retry" not in refused.headers
        assert client.get("/files").json()["data"] == []
        with runtime.department(key) as session:
            session.execute(update(Erasure).values(ends_at=func.now()))
        file = upload(client, content).raise_for_status().json()["id"]
        assert client.get(f"/files/{file}/content").content == content


def test_a_file_is_not_deleted_beside_the_submit_that_names_it(
    make_department: Callable[[], Department], base_model: str
) -> None:
    department = make_department()
    client = department.client()

    def accepted(call: Callable[[], object]) -> bool:
        try:
            call()
        except (openai.ConflictError, openai.BadRequestError):
            return False
        return True

    with ThreadPoolExecutor(2) as both:
        for salt in range(12):
            file = department.upload(rows(2, salt=100 + salt))
            deleting = both.submit(accepted, partial(client.files.delete, file))
            submit = partial(client.fine_tuning.jobs.create, model=base_model, training_file=file)
            submitting = both.submit(accepted, submit)
            assert deleting.result() != submitting.result()
