import re
from pathlib import Path

from api.objects.audit import KINDS

ROOT = Path(__file__).resolve().parents[3]


def test_every_kind_of_resource_that_is_recorded_has_an_id_to_be_shown_by() -> None:
    sources = "".join(path.read_text() for folder in ("services", "workers") for path in (ROOT / folder).glob("*.py"))
    recorded = set(re.findall(r'(?:resource|subject)(?:, refs)? ?= ?\(\s*"(\w+)"', sources))
    assert len(recorded) > 10
    assert recorded <= set(KINDS)
