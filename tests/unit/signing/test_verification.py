"""A pulled folder, whole and tampered with. That the OpenSSF library says the same is asked of the library."""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from model_signing.verifying import Config

from domain.attestations import (
    APPROVAL_FILE,
    IMPORT,
    PROVENANCE_FILE,
    SIGNATURE_FILE,
    Approval,
    Approver,
    Dependency,
    Provenance,
    utc,
)
from domain.digests import digest_of, manifest_of_tree
from domain.peft_folders import ImportSpec
from domain.runs import LoraMethod
from signing import keys
from signing.envelopes import PAYLOAD_TYPE, seal
from signing.folders import sign_folder
from signing.keys import PublicKey, SigningKey
from signing.verification import Verdict, verify

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
FILES = {"adapter_config.json": b'{"r": 8}', "adapter_model.safetensors": bytes(range(256)) * 4100}
SPEC = ImportSpec(
    base_model="tiny", base_model_digest=digest_of(b"base"), method=LoraMethod(lora_rank=8), peft_version=None
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return new_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return new_key(tmp_path_factory.mktemp("other"))


def new_key(folder: Path) -> SigningKey:
    keys.create(folder / "key.pem")
    return SigningKey.load(folder / "key.pem")


def provenance(adapter: str = "even") -> Provenance:
    return Provenance(
        build_type=IMPORT, adapter=adapter, external_parameters=SPEC, internal_parameters={"job": "1"},
        dependencies=(Dependency(name="base_model:tiny", digest=SPEC.base_model_digest),),
        builder="urn:tsugiki:worker:acme:w1", builder_versions={"tsugiki": "0.1.0"}, invocation="1/1",
        finished_at=NOW,
    )  # fmt: skip


def approval(digest: str, **changes: Any) -> Approval:
    said: dict[str, Any] = {
        "adapter": "even", "number": 3, "digest": digest, "state": "approved",
        "approvers": (Approver(id="user-1", decided_at=utc(NOW)),), "aliases": ("production",),
        "department": "proj_1", "organisation": "acme", "as_of": utc(NOW),
    }  # fmt: skip
    return Approval(**said | changes)


def pulled(folder: Path, key: SigningKey, files: dict[str, bytes] | None = None, **changes: Any) -> Path:
    """A folder as `adapters pull` leaves it."""
    folder.mkdir()
    for name, content in (files or FILES).items():
        (folder / name).write_bytes(content)
    digest = manifest_of_tree(folder).digest
    for kind, content in sign_folder(folder, provenance(), key).items():
        (folder / kind.file).write_bytes(content)
    (folder / APPROVAL_FILE).write_bytes(seal(approval(digest, **changes).statement(), key))
    return folder


def verdict(folder: Path, *known: SigningKey, **options: Any) -> Verdict:
    return verify(folder, [PublicKey.read(key.public.pem.encode()) for key in known], now=NOW, **options)


def reasons(found: Verdict) -> list[tuple[str, str | None]]:
    return [(reason.code, reason.param) for reason in found.reasons]


def library_agrees(folder: Path, key: SigningKey, public: Path) -> bool:
    """What the OpenSSF library's own verifier says of the same folder."""
    public.write_text(key.public.pem)
    try:
        Config().use_elliptic_key_verifier(public_key=public).verify(folder, folder / SIGNATURE_FILE)
    except ValueError:
        return False
    return True


def test_a_pulled_folder_holds_and_says_where_it_comes_from(tmp_path: Path, key: SigningKey) -> None:
    folder = pulled(tmp_path / "even", key)
    found = verdict(folder, key)
    assert found.holds, found.reasons
    assert found.digest == manifest_of_tree_of(FILES, tmp_path)
    assert found.builder == "urn:tsugiki:worker:acme:w1"
    assert found.approval
    assert (found.approval.state, found.approval.number, found.approval.as_of) == (
        "approved", 3, "2026-11-25T12:00:00Z",
    )  # fmt: skip
    assert [each.id for each in found.approval.approvers] == ["user-1"]
    assert library_agrees(folder, key, tmp_path / "key.pub")


def manifest_of_tree_of(files: dict[str, bytes], tmp_path: Path) -> str:
    folder = tmp_path / "files alone"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return manifest_of_tree(folder).digest


def flip(name: str) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return tamper


def swap(folder: Path) -> None:
    first, second = (folder / name for name in FILES)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def add(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(b"x") and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def link(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.rename(folder.parent / "elsewhere")
    weights.symlink_to(folder.parent / "elsewhere")


WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
# Where the files differ, so does the version's digest, and both statements are about another version.
ELSEWHERE = [("signature_invalid", PROVENANCE_FILE), ("signature_invalid", APPROVAL_FILE)]
TAMPERS: dict[str, tuple[Callable[[Path], None], list[tuple[str, str | None]], bool]] = {
    # What is done, what is told of it, and whether the library notices it in the files.
    "a flipped bit": (flip(WEIGHTS), [("checksum_mismatch", WEIGHTS), *ELSEWHERE], True),
    "swapped files": (swap, [("checksum_mismatch", CONFIG), ("checksum_mismatch", WEIGHTS), *ELSEWHERE], True),
    "a file too many": (add("payload.py"), [("forbidden_file", "payload.py")], True),
    "a hidden file": (add(".hidden"), [("forbidden_file", ".hidden")], True),
    "a missing file": (remove(CONFIG), [("checksum_mismatch", CONFIG), *ELSEWHERE], True),
    "a link": (link, [("forbidden_file", WEIGHTS), ("checksum_mismatch", WEIGHTS), *ELSEWHERE], True),
    "no signature": (remove(SIGNATURE_FILE), [("signature_invalid", SIGNATURE_FILE)], False),
    "no provenance": (remove(PROVENANCE_FILE), [("signature_invalid", PROVENANCE_FILE)], False),
    "no approval": (remove(APPROVAL_FILE), [("signature_invalid", APPROVAL_FILE)], False),
}


@pytest.mark.parametrize("name", TAMPERS)
def test_what_was_done_to_a_folder_is_told(tmp_path: Path, key: SigningKey, name: str) -> None:
    tamper, expected, in_the_files = TAMPERS[name]
    folder = pulled(tmp_path / "even", key)
    assert verdict(folder, key).holds
    tamper(folder)
    found = verdict(folder, key)
    assert reasons(found) == expected
    assert not found.holds
    if in_the_files:
        assert not library_agrees(folder, key, tmp_path / "key.pub")


@pytest.mark.parametrize("file", [SIGNATURE_FILE, PROVENANCE_FILE, APPROVAL_FILE])
def test_no_bit_of_what_is_signed_can_be_changed(tmp_path: Path, key: SigningKey, file: str) -> None:
    folder = pulled(tmp_path / "even", key)
    content = json.loads((folder / file).read_bytes())
    envelope = content.get("dsseEnvelope", content)
    payload, signature = b64decode(envelope["payload"]), b64decode(envelope["signatures"][0]["sig"])
    for place in (0, len(payload) // 2, len(payload) - 1):
        changed = payload[:place] + bytes([payload[place] ^ 4]) + payload[place + 1 :]
        envelope["payload"] = b64encode(changed).decode()
        (folder / file).write_text(json.dumps(content))
        assert ("signature_invalid", file) in reasons(verdict(folder, key))
    envelope["payload"] = b64encode(payload).decode()
    envelope["payloadType"] = "text/plain"
    (folder / file).write_text(json.dumps(content))
    assert reasons(verdict(folder, key)) == [("signature_invalid", file)]
    envelope["payloadType"] = PAYLOAD_TYPE
    envelope["signatures"] *= 2
    (folder / file).write_text(json.dumps(content))
    assert reasons(verdict(folder, key)) == [("signature_invalid", file)]
    # Back as it was, although in another spelling: what counts is what is signed.
    envelope["signatures"] = [envelope["signatures"][0] | {"sig": b64encode(signature).decode()}]
    (folder / file).write_text(json.dumps(content, indent=2))
    assert verdict(folder, key).holds


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"payload":1,"signatures":[{"keyid":[]}]}', b"[" * 99]
)
@pytest.mark.parametrize("file", [SIGNATURE_FILE, PROVENANCE_FILE, APPROVAL_FILE])
def test_what_is_no_envelope_is_refused(tmp_path: Path, key: SigningKey, file: str, content: bytes) -> None:
    folder = pulled(tmp_path / "even", key)
    (folder / file).write_bytes(content)
    assert reasons(verdict(folder, key)) == [("signature_invalid", file)]


def test_another_key_convinces_nobody_and_an_earlier_one_still_does(
    tmp_path: Path, key: SigningKey, other_key: SigningKey
) -> None:
    folder = pulled(tmp_path / "even", key)
    expected = [("signature_invalid", file) for file in (SIGNATURE_FILE, PROVENANCE_FILE, APPROVAL_FILE)]
    assert reasons(verdict(folder, other_key)) == expected
    assert reasons(verdict(folder)) == expected
    # After a rotation: the version by the old key, the statement of today by the new one.
    (folder / APPROVAL_FILE).write_bytes(seal(approval(manifest_of_tree_of(FILES, tmp_path)).statement(), other_key))
    assert verdict(folder, key, other_key).holds
    assert reasons(verdict(folder, key)) == [("signature_invalid", APPROVAL_FILE)]


def test_a_key_that_calls_itself_by_anothers_name_convinces_nobody(
    tmp_path: Path, key: SigningKey, other_key: SigningKey
) -> None:
    folder = pulled(tmp_path / "even", other_key)
    for file in (SIGNATURE_FILE, PROVENANCE_FILE, APPROVAL_FILE):
        content = (folder / file).read_text().replace(other_key.public.key_id, key.public.key_id)
        (folder / file).write_text(content)
    assert {code for code, _ in reasons(verdict(folder, key))} == {"signature_invalid"}


def test_statements_of_another_version_are_not_this_ones(tmp_path: Path, key: SigningKey) -> None:
    folder = pulled(tmp_path / "even", key)
    another = pulled(tmp_path / "odd", key, FILES | {CONFIG: b'{"r": 4}'})
    for file in (PROVENANCE_FILE, APPROVAL_FILE):
        own = (folder / file).read_bytes()
        (folder / file).write_bytes((another / file).read_bytes())
        assert reasons(verdict(folder, key)) == [("signature_invalid", file)]
        # Nor is one statement taken for the other.
        (folder / file).write_bytes((folder / ({PROVENANCE_FILE, APPROVAL_FILE} - {file}).pop()).read_bytes())
        assert reasons(verdict(folder, key)) == [("signature_invalid", file)]
        (folder / file).write_bytes(own)
    (folder / SIGNATURE_FILE).write_bytes((another / SIGNATURE_FILE).read_bytes())
    assert reasons(verdict(folder, key)) == [("checksum_mismatch", CONFIG)]


def test_the_state_is_that_of_the_statement(tmp_path: Path, key: SigningKey) -> None:
    for state in ("candidate", "rejected", "revoked", "retired"):
        folder = pulled(tmp_path / state, key, state=state)
        found = verdict(folder, key)
        assert reasons(found) == [("version_not_approved", APPROVAL_FILE)]
        assert state in str(found.reasons[0])
        assert verdict(folder, key, accepted=frozenset({state})).holds


def test_an_older_statement_shows_by_its_time(tmp_path: Path, key: SigningKey) -> None:
    # Of before the revocation, put back by whoever wants to go on serving.
    folder = pulled(tmp_path / "even", key, as_of=utc(NOW - timedelta(days=3)))
    found = verdict(folder, key)
    assert found.holds
    assert found.approval
    assert found.approval.as_of == "2026-11-22T12:00:00Z"
    assert verdict(folder, key, max_age=timedelta(days=4)).holds
    assert reasons(verdict(folder, key, max_age=timedelta(days=2))) == [("signature_invalid", APPROVAL_FILE)]


def test_provenance_says_what_slsa_asks_for(tmp_path: Path, key: SigningKey) -> None:
    folder = pulled(tmp_path / "even", key)
    statement = json.loads(b64decode(json.loads((folder / PROVENANCE_FILE).read_bytes())["payload"]))
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert [each["name"] for each in statement["subject"]] == ["even", *sorted(FILES)]
    assert [each["digest"]["sha256"] for each in statement["subject"][1:]] == [
        digest_of(FILES[name]).removeprefix("sha256:") for name in sorted(FILES)
    ]
    definition, details = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert definition["externalParameters"]["base_model"] == "tiny"
    (base,) = definition["resolvedDependencies"]
    assert base["digest"] == {"sha256": digest_of(b"base").removeprefix("sha256:")}
    assert details["builder"]["id"] == "urn:tsugiki:worker:acme:w1"
    assert details["metadata"] == {"invocationId": "1/1", "finishedOn": "2026-11-25T12:00:00Z"}
