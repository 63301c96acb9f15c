"""Every cell of the tables, from a benchmark built by hand."""

from benchmarks import tables
from benchmarks.machine import Hardware
from benchmarks.quality import compared
from benchmarks.reports import Exactness
from benchmarks.results import BatchMeasured, QualityRun, Results


def test_an_engine_is_told_beside_the_reference(results: Results) -> None:
    lines = tables.whole([results]).splitlines()
    # 500 and 2,000 tokens a CPU second; 260 MFLOP x 500 of 1 TFLOP/s are 13 %.
    assert (
        "| peft + HF Trainer, bf16 | 500 | 250-1,000 | 1.00 x | 13.0% | 1,000 | 2.50 | 4.0 GB | 5.0 | not measured |"
    ) in lines
    assert (
        "| Tsugiki, bf16 | 2,000 | 1,000-4,000 | 4.00 x | 52.0% | 4,000 | 1.00 | 1.5 GB | 2.0 | not measured |" in lines
    )


def test_the_last_row_is_the_peak_itself(results: Results) -> None:
    # 1 and 2 TFLOP/s over 260 MFLOP a token: 3,846 and 7,692 tokens a second.
    expected = "| nothing but the needed products, at the bf16 peak | 3,846 | 3,846-7,692 |  | 100.0% |"
    assert expected in tables.whole([results])
    assert "bf16 on 1 1,000 GFLOP/s (1,000-2,000 by round)" in tables.whole([results])


def test_what_is_not_measured_is_said_to_be(results: Results) -> None:
    told = tables.whole([results])
    assert f"| Unsloth, bf16 {'| not measured ' * 9}|" in told
    assert f"| Tsugiki, all jobs in one process that waited for work {'| not measured ' * 6}|" in told
    assert "### GPUs\n\nEvery row: not measured." in told
    on_gpu = results.model_copy(update={"hardware": Hardware(cpu="c", isa="avx2", threads=2, gpu="Example GPU")})
    assert "### GPUs" not in tables.whole([on_gpu])


def test_the_gain_of_one_pass_is_a_median_of_ratios(results: Results) -> None:
    # 2 s against 1 s, then 1 s against 1 s; 100 tokens each.
    assert "| 4 | 1 | 75 | 100 | 1.50 x (1.00-2.00) |" in tables.whole([results])


def test_ranks_jobs_and_batches_are_told(results: Results) -> None:
    batch = BatchMeasured(runs=4, documents_a_run=8, seconds=6.0, peak_bytes=1_000_000_000, load=results.ranks[0].load)
    told = tables.whole([results.model_copy(update={"batches": (batch,)})])
    assert "| 2 x 1 | 400 | not measured | 1.00 | 1.0 GB |" in told
    assert "| 2 jobs of 48 documents | seconds |" in told
    assert "| peft + HF Trainer bf16, a process a job | 110.0 | 1.0 x | 65 | 60.0 | 120.0 | 2.0 GB |" in told
    assert "| Tsugiki, a process a job | 22.0 | 5.0 x | 327 | 12.0 | 24.0 | 2.0 GB |" in told
    assert "| runs of 8 documents in one plan | seconds |" in told
    assert "| 4 | 6.0 | 1.50 | 1.0 GB |" in told


def test_exactness_and_load_and_commits_are_told(results: Results) -> None:
    exactness = Exactness(
        largest_gradient=0.5, fast_from_peft=2e-7, general_from_peft=3e-7, beside_company=4e-8, loss_from_peft=5e-8
    )
    told = tables.whole([results.model_copy(update={"exactness": exactness})])
    assert "beside a largest gradient of 0.5" in told
    assert "2.0e-07 (fast path) and 3.0e-07 (general path)" in told
    # Most rounds were quiet, the first was not.
    assert "used 0.0 cores (median; up to 1.5)" in told
    assert "Measured on 2026-01-02 at `abc1234`: steps; 2026-01-03 at `def5678`: jobs." in told


def test_quality_is_told_by_department(results: Results) -> None:
    answers = {"peft-trainer-bf16": (90.0, 0.5, (True,) * 4), "tsugiki-bf16": (20.0, 0.25, (True, True, True, False))}
    runs = [
        QualityRun(department="claims", trainer=trainer, seed=1, train_s=train_s, loss=loss, right=right)
        for trainer, (train_s, loss, right) in answers.items()
    ]
    told = tables.whole([results.model_copy(update={"quality": compared(runs)})])
    assert "| claims | peft + HF Trainer, bf16 | 1 | 100.0% (100.0%-100.0%) | 0.5000 | 90 |" in told
    assert "| claims | Tsugiki, bf16 | 1 | 75.0% (75.0%-75.0%) | 0.2500 | 20 |" in told
    assert "-25.0 points of accuracy" in told
    assert "peft takes 4.5 times as long" in told


def test_the_readme_has_the_engines_that_people_compare(results: Results) -> None:
    told = tables.summary(results)
    assert "| peft + HF Trainer, bf16 | 500 | 1.0 x | 13% | 5.0 | 4.0 GB |" in told
    assert "| Tsugiki, bf16 | 2,000 | 4.0 x | 52% | 2.0 | 1.5 GB |" in told
    assert "medians of 3 alternating rounds" in told
    # Two ways of doing jobs are not measured: there is nothing to sum up.
    assert "to the last adapter" not in told
