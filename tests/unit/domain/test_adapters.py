import pytest
from pydantic import TypeAdapter, ValidationError

from domain.adapters import NEXT, STANDING, Labels, VersionState, check_alias, check_transition
from domain.refusals import Conflict, Refusal

CANDIDATE, APPROVED, REJECTED, RETIRED, REVOKED = VersionState


def test_what_is_revoked_stays_so_and_everything_can_be_revoked() -> None:
    assert set(NEXT) == set(VersionState)
    assert NEXT[REVOKED] == frozenset()
    assert all(REVOKED in NEXT[state] for state in VersionState if state is not REVOKED)


def test_a_version_is_decided_about_once() -> None:
    decided = {APPROVED, REJECTED}
    assert [state for state in VersionState if NEXT[state] & decided] == [CANDIDATE]
    assert {CANDIDATE, APPROVED} == STANDING


@pytest.mark.parametrize(("current", "following"), [(REVOKED, APPROVED), (REJECTED, APPROVED), (APPROVED, CANDIDATE)])
def test_a_move_that_is_not_in_the_table_is_a_conflict(current: VersionState, following: VersionState) -> None:
    check_transition(CANDIDATE, APPROVED)
    with pytest.raises(Conflict, match=current.value):
        check_transition(current, following)


@pytest.mark.parametrize(
    ("name", "code"),
    [("latest", "reserved_alias"), ("3", "invalid_request"), ("a/b", "invalid_request"), ("", "invalid_request"),
     ("x" * 65, "invalid_request")],
)  # fmt: skip
def test_a_name_that_cannot_be_an_alias_is_refused(name: str, code: str) -> None:
    check_alias("production")
    with pytest.raises(Refusal) as refused:
        check_alias(name)
    assert (refused.value.code, refused.value.param) == (code, "alias")


@pytest.mark.parametrize(
    "labels", [{"Team": "x"}, {"": "x"}, {"-a": "x"}, {"a": 1}, {"a": "x" * 257}, {f"a{n}": "" for n in range(17)}]
)
def test_labels_are_few_and_short(labels: object) -> None:
    parsed = TypeAdapter(Labels)
    assert parsed.validate_python({"team": "billing", "cost-centre": "12"})
    with pytest.raises(ValidationError):
        parsed.validate_python(labels)
