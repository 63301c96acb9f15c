"""An export's file: what is none, or none any more, is refused and not verified."""

import gzip
import json
from pathlib import Path

import pytest

from evidence.events import FIELDS, PLATFORM
from evidence.export import ExportInvalid, ExportTrail
from evidence.verify import Fault, verify

HEADER = '{"kind":"tsugiki.audit.export/1","filters":{}}\n'
EVENT: dict[str, object] = dict.fromkeys(FIELDS) | {"number": 1, "xid": 9, "occurred_at": 5, "details": {}}


def of(event: dict[str, object]) -> bytes:
    return (HEADER + json.dumps({"event": event}) + "\n").encode()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", gzip.compress(HEADER.encode()), b"\xff\xfe", b"[]\n", b"1\n", HEADER[:-3].encode(),
        b'{"event":{}}\n',
        of(EVENT | {"number": "1"}), of(EVENT | {"xid": None}), of(EVENT | {"occurred_at": 1.5}),
        of(EVENT | {"department_id": 7}), HEADER.encode() + b'{"archive":{"partition":7,"numbers":[]}}\n',
        HEADER.encode() + b'{"seal":{"numbers":[9223372036854775808]}}\n', HEADER.encode() + b'{"seal":[]}\n',
    ],
    ids=range(15),
)  # fmt: skip
def test_what_is_no_export_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "trail.ndjson"
    file.write_bytes(content)
    with pytest.raises(ExportInvalid):
        ExportTrail.read(file)


@pytest.mark.parametrize("count", ["9007199254740992", "1" * 5000, "NaN", "-Infinity"])
def test_an_event_with_what_has_no_canonical_form_is_read_and_is_not_as_it_was(tmp_path: Path, count: str) -> None:
    file = tmp_path / "trail.ndjson"
    file.write_bytes(of(EVENT | {"details": {"count": 0}}).replace(b'"count": 0', b'"count": ' + count.encode()))
    trail = ExportTrail.read(file)
    (leaf,) = trail.events(PLATFORM)
    assert verify(trail, []).findings == []
    sealed = {
        "chain": str(PLATFORM), "seal": 1, "sealed_at": 9, "xid": 10, "snapshot": "10:10:", "numbers": [1],
        "leaves": leaf.digest.hex(), "previous": "00" * 32, "digest": "00" * 32,
    }  # fmt: skip
    with file.open("a") as lines:
        lines.write(json.dumps({"seal": sealed}) + "\n")
    assert Fault.CHANGED in {finding.fault for finding in verify(ExportTrail.read(file), []).findings}
