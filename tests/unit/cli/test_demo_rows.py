import io
import json
from collections import Counter
from collections.abc import Callable

import pytest

from cli import demo_rows
from cli.demo_rows import DepartmentRows, Example, SplitSizes, normalised, split
from domain.rows import check_rows

SEED = 7
SPLITS = ("train", "validation", "evaluation")


@pytest.fixture(scope="module")
def departments() -> dict[str, DepartmentRows]:
    built = (demo_rows.clinical_coding(SEED), demo_rows.smart_home(SEED))
    return {rows.department: rows for rows in built}


@pytest.fixture(params=["clinical-coding", "smart-home"])
def rows(request: pytest.FixtureRequest, departments: dict[str, DepartmentRows]) -> DepartmentRows:
    return departments[request.param]


def shared_between_splits(rows: DepartmentRows, key: Callable[[Example], str]) -> set[str]:
    found = [{key(example) for example in getattr(rows, name)} for name in SPLITS]
    return (found[0] & found[1]) | (found[0] & found[2]) | (found[1] & found[2])


def test_no_group_is_in_two_splits(rows: DepartmentRows) -> None:
    assert shared_between_splits(rows, lambda example: example.group) == set()


def test_no_prompt_is_in_two_splits_whatever_its_case_and_punctuation(rows: DepartmentRows) -> None:
    assert shared_between_splits(rows, lambda example: normalised(example.prompt)) == set()


def test_no_training_prompt_nearly_repeats_a_held_out_one(rows: DepartmentRows) -> None:
    held_out = [demo_rows.words(example.prompt) for example in rows.validation + rows.evaluation]
    nearest = max(
        demo_rows.jaccard(demo_rows.words(example.prompt), other) for example in rows.train for other in held_out
    )
    assert nearest < 0.7


@pytest.mark.parametrize("name", SPLITS)
def test_every_row_is_accepted_by_the_service(rows: DepartmentRows, name: str) -> None:
    report = check_rows(io.BytesIO(rows.jsonl(name)), f"{name}.jsonl")
    assert report.duplicate_rows == 0
    assert report.rows_with_choices == (report.rows if name == "evaluation" else 0)


def test_exactly_one_choice_begins_each_answer(rows: DepartmentRows) -> None:
    for line in rows.jsonl("evaluation").splitlines():
        row = json.loads(line)
        answer = row["messages"][-1]["content"]
        assert sum(answer.startswith(choice) for choice in row["choices"]) == 1


def test_evaluation_holds_ten_rows_of_each_of_ten_labels(rows: DepartmentRows) -> None:
    assert sorted(Counter(example.label for example in rows.evaluation).values()) == [10] * 10


def test_there_are_a_thousand_rows_to_train_on(rows: DepartmentRows) -> None:
    assert len(rows.train) >= 1000


def test_the_same_seed_builds_the_same_bytes(departments: dict[str, DepartmentRows]) -> None:
    again = {rows.department: rows for rows in (demo_rows.clinical_coding(SEED), demo_rows.smart_home(SEED))}
    for name, rows in departments.items():
        assert [rows.jsonl(each) for each in SPLITS] == [again[name].jsonl(each) for each in SPLITS]


def test_a_spoken_request_answers_with_json(departments: dict[str, DepartmentRows]) -> None:
    for example in departments["smart-home"].train:
        assert json.loads(example.answer)["intent"] == example.label


def test_a_near_duplicate_of_a_held_out_prompt_is_not_trained_on() -> None:
    held_out = [Example("a", "the left knee hurts badly today", "x", "x")]
    near = [Example("b", "The left knee hurts badly, today!", "x", "x"), Example("c", "sore throat", "x", "x")]
    sizes = SplitSizes(train=5, validation=0, evaluation=1, of_a_held_out_group=1)
    for seed in range(8):
        train, _validation, evaluation = split(held_out + near, sizes, seed)
        prompts = [example.prompt for example in train + evaluation]
        assert len({normalised(prompt) for prompt in prompts}) == len(prompts)
