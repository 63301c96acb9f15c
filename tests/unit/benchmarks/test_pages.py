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
