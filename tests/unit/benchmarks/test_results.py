"""Parts of a benchmark are measured one by one, and stand in one file where they measured the same."""

import pytest

from benchmarks.parts import PARTS
from benchmarks.results import PART_FIELDS, PartRecord, Results, TaskChanged

LATER = PartRecord(commit="fff0000", date="2026-02-01T00:00+00:00")


def test_every_part_says_what_it_finds_out() -> None:
    assert PARTS.keys() == PART_FIELDS.keys()
    found = {name for names in PART_FIELDS.values() for name in names}
    described = {"hardware", "commit", "date", "versions", "documents", "weights", "parts", "rows", "jobs_rows"}
    assert found == Results.model_fields.keys() - described


def test_a_part_measured_again_leaves_the_others(results: Results) -> None:
    new = results.model_copy(update={"commit": "fff0000", "steps": (), "peaks": (), "jobs": (), "parts": {}})
    begun = new.keeping(results).beginning("jobs", LATER)
    assert begun.jobs == ()
    assert (begun.steps, begun.peaks, begun.fused) == (results.steps, results.peaks, results.fused)
    assert begun.commit == "fff0000"
    assert begun.parts == {"steps": results.parts["steps"], "jobs": LATER}


@pytest.mark.parametrize("changed", ["versions", "documents"])
def test_parts_of_different_tasks_do_not_stand_in_one_file(results: Results, changed: str) -> None:
    value = {name: type(held)() for name, held in getattr(results, changed).items()}
    other = results.model_copy(update={changed: value})
    with pytest.raises(TaskChanged):
        results.keeping(other)
    # The control: another commit is no other task.
    assert results.keeping(results.model_copy(update={"commit": "fff0000"})).steps == results.steps
