import pytest
from pydantic import BaseModel, ConfigDict, StrictInt

from domain.job_requests import JobRequest
from domain.parsing import parse_as
from domain.refusals import Refusal


class Small(BaseModel):
    model_config = ConfigDict(extra="forbid")

    a: StrictInt
    b: StrictInt = 0


def refusal(value: object, model: type[BaseModel] = Small) -> Refusal:
    with pytest.raises(Refusal) as refused:
        parse_as(model, value)
    return refused.value


def test_the_first_finding_is_the_refusal_and_all_are_its_details() -> None:
    found = refusal({"b": "x", "c": 1})
    assert (found.code, found.param) == ("missing_field", "a")
    assert [(detail["code"], detail["param"]) for detail in found.details] == [
        ("missing_field", "a"),
        ("wrong_type", "b"),
        ("unknown_field", "c"),
    ]


def test_at_most_100_findings_are_told() -> None:
    assert len(refusal({str(number): 1 for number in range(500)}).details) == 100


def test_an_invented_field_is_shown_but_not_at_any_length() -> None:
    assert refusal({"a": 1, "x" * 10_000: 1}).param == "x" * 64


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [], {}])
def test_only_an_integer_is_an_integer(value: object) -> None:
    assert (refusal({"a": value}).code, refusal({"a": value}).param) == ("wrong_type", "a")


def test_of_a_number_or_auto_the_number_is_spoken_of() -> None:
    body = {"model": "m", "training_file": "f"}
    for value, code in ((0, "out_of_range"), ("8", "wrong_type"), (True, "wrong_type")):
        found = refusal(body | {"hyperparameters": {"batch_size": value}}, JobRequest)
        assert (found.code, found.param) == (code, "hyperparameters.batch_size")
