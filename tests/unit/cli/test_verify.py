"""`tsugiki verify` and its exit status; what is verified is tested where it is done, in `signing`."""

from pathlib import Path

import pytest

from signing.keys import SigningKey
from tests.unit.cli.conftest import Run, Stub
from tests.unit.signing.test_verification import NOW, flip, new_key, pulled


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return new_key(tmp_path_factory.mktemp("key"))


def test_a_good_folder_ends_with_0_and_needs_no_service(bare: Run, tmp_path: Path, key: SigningKey) -> None:
    folder = pulled(tmp_path / "even", key)
    (tmp_path / "key.pub").write_text(key.public.pem)
    ended = bare("verify", str(folder), "--public-key", "key.pub", "--json")
    assert (ended.status, ended.json["holds"], ended.json["reasons"]) == (0, True, [])
    assert (ended.json["adapter"], ended.json["number"], ended.json["approvers"]) == ("even", 3, ["user-1"])
    shown = bare("verify", str(folder), "--public-key", "key.pub")
    assert "even@3" in shown.out
    assert f"approved, at {NOW:%Y-%m-%dT%H:%M:%SZ}" in shown.out


def test_every_reason_is_told_and_the_status_is_1(bare: Run, tmp_path: Path, key: SigningKey) -> None:
    folder = pulled(tmp_path / "even", key, state="revoked")
    flip("adapter_config.json")(folder)
    (folder / "payload.py").touch()
    (tmp_path / "key.pub").write_text(key.public.pem)
    ended = bare("verify", str(folder), "--public-key", "key.pub")
    assert ended.status == 1
    for told in ("checksum_mismatch", "adapter_config.json", "forbidden_file", "payload.py", "signature_invalid"):
        assert told in ended.out


def test_the_state_and_the_age_that_are_asked_for_decide(bare: Run, tmp_path: Path, key: SigningKey) -> None:
    folder = pulled(tmp_path / "even", key, state="candidate")
    (tmp_path / "key.pub").write_text(key.public.pem)
    asked = ("verify", str(folder), "--public-key", "key.pub")
    assert bare(*asked).status == 1
    assert bare(*asked, "--accept", "candidate").status == 0
    # The statement is of a day that is long over, or yet to come.
    assert bare(*asked, "--accept", "candidate", "--max-age-hours", "1000000").status == 0


def test_without_a_key_the_service_is_asked_for_all_of_its_own(
    tsugiki: Run, stub: Stub, tmp_path: Path, key: SigningKey
) -> None:
    folder, other = pulled(tmp_path / "even", key), new_key(tmp_path)
    stub.answer("GET /signing_keys", {"data": [{"pem": each.public.pem} for each in (other, key)]})
    assert tsugiki("verify", str(folder)).status == 0
    stub.answer("GET /signing_key", {"pem": key.public.pem})
    assert tsugiki("signing-key").out == key.public.pem


def test_what_is_no_key_is_told_plainly(bare: Run, tmp_path: Path, key: SigningKey) -> None:
    folder = pulled(tmp_path / "even", key)
    (tmp_path / "key.pub").write_text("no key")
    ended = bare("verify", str(folder), "--public-key", "key.pub")
    assert (ended.status, ended.err) == (1, "error: --public-key key.pub: This is no public key in PEM form.\n")
    assert bare("verify", str(folder), "--public-key", "missing.pub").err.startswith("error: missing.pub: No such file")
    assert bare("verify", "nowhere", "--public-key", "key.pub").status == 2
