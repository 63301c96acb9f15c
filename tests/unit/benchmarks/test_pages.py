"""README.md and docs/performance.md say what the committed results say."""

import pytest

from benchmarks.pages import IMAGES, between, blocks, replaced
from benchmarks.results import Results, read_all
from benchmarks.summaries import summarise, summarise_jobs


def test_pages_say_what_the_committed_results_give() -> None:
    for page, block in blocks(read_all()).items():
        # Nothing changes where the block is written anew.
        assert replaced(page.read_text(), block) == page.read_text(), f"{page}: python -m benchmarks --tables"


def test_a_changed_result_changes_both_pages(results: Results) -> None:
    slower = results.model_copy(update={"steps": results.steps[:3] + results.steps[:3]})
    before, after = blocks([results]), blocks([slower])
    assert all(before[page] != after[page] for page in before)


def test_committed_rows_and_plots_are_of_the_committed_rounds() -> None:
    for results in read_all():
        assert results.rows == summarise(results)
        assert results.jobs_rows == summarise_jobs(results)
        assert (IMAGES / results.plot_name).is_file()


ALIKE = (
    "peft-trainer-fp32",
    "peft-trainer-bf16",
    "trl-sft-bf16",
    "tsugiki-fp32",
    "tsugiki-bf16",
    "tsugiki-general-bf16",
)


def tokens_met(results: Results) -> list[set[tuple[tuple[int, int], ...]]]:
    """By round: what engines that take rows in their order, 8 a step, counted in each step."""
    met: dict[int, set[tuple[tuple[int, int], ...]]] = {}
    for measured in results.steps:
        if measured.engine in ALIKE:
            counts = tuple((step.tokens, step.supervised_tokens) for step in measured.steps)
            met.setdefault(measured.round, set()).add(counts)
    return list(met.values())


def test_engines_met_the_same_tokens_in_every_committed_round() -> None:
    for results in read_all():
        assert [len(counts) for counts in tokens_met(results)] == [1] * len({each.round for each in results.steps})


def test_another_count_would_be_seen(results: Results) -> None:
    assert [len(counts) for counts in tokens_met(results)] == [1, 1, 1]
    first = results.steps[0]
    fewer = first.model_copy(update={"steps": first.steps[1:]})
    assert len(tokens_met(results.model_copy(update={"steps": (fewer, *results.steps[1:])}))[0]) == 2


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    page = replaced("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n", "new\n")
    assert page == "before\n<!-- bench -->\nnew\n<!-- /bench -->\nafter\n"
    assert between(page) == "new"


@pytest.mark.parametrize(
    "text",
    [
        "none",
        "<!-- bench --> begun",
        "<!-- /bench --> <!-- bench -->",
        "<!-- bench --><!-- /bench --><!-- bench --><!-- /bench -->",
    ],
)
def test_a_page_without_one_pair_of_markers_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="markers"):
        replaced(text, "new")
