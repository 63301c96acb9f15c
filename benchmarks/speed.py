"""Parts that look inside a training process: speed of steps, jobs in one pass, exactness of gradients."""

from pathlib import Path

from benchmarks import contract
from benchmarks.bench import Bench, read, told
from benchmarks.contract import compute
from benchmarks.engines import ENGINES, Engine
from benchmarks.process import Finished
from benchmarks.reports import Exactness, FusedReport, Report, say
from benchmarks.results import FusedMeasured, HeldOutLoss, StepsMeasured
from benchmarks.steps import parse_phases

HELD_OUT = 64
# A packed row of 512 tokens takes up to so many documents.
DOCUMENTS_A_PACKED_ROW = 15
FUSED_ROWS = 512
# What a round takes of them at most, by the engine that packs.
ROUND_DOCUMENTS = 150


def measure_steps(bench: Bench) -> None:
    """Every engine once a round, round after round, each in a process of its own."""
    for number in range(1, bench.sizes.rounds + 1):
        bench.add(peaks=bench.peaks(number))
        # There and back again: none is always the first, or always after the same one.
        for engine in ENGINES if number % 2 else ENGINES[::-1]:
            if bench.can_measure(engine):
                _measure_round(bench, engine, number)


def _measure_round(bench: Bench, engine: Engine, number: int) -> None:
    # Documents of its own for each round: how much padding a batch needs is the luck of its draw.
    finished, folder = _steps(bench, engine, first=(number - 1) * ROUND_DOCUMENTS)
    report = read(Report, folder / "steps.json")
    measured = StepsMeasured(
        engine=engine.name,
        round=number,
        start_s=report.start_s,
        peak_bytes=report.peak_bytes,
        steps=tuple(report.steps),
        load=finished.load,
    )
    bench.add(steps=[measured])
    counted = [step for step in report.steps if step.threads == 1 and not step.warm_up]
    speed = sum(step.tokens for step in counted) / sum(step.cpu_s for step in counted)
    say(f"round {number}: {engine.label}: {speed:,.0f} tokens a CPU second; {told(finished)}")


def _steps(bench: Bench, engine: Engine, *, first: int) -> tuple[Finished, Path]:
    phases = bench.sizes.phases.format(threads=bench.threads)
    count = sum(phase.steps for phase in parse_phases(phases)) * engine.rows_a_step
    return bench.run(engine.module, *bench.arguments(engine, phases), *rows_of(bench, engine, first, count))


def rows_of(bench: Bench, engine: Engine, first: int, count: int) -> list[str]:
    """The arguments that give a process these documents: ours as chat rows, a peer's as tokens."""
    if engine.is_ours:
        return [f"--rows={bench.slice(first, count)}"]
    wanted = count * (DOCUMENTS_A_PACKED_ROW if "--packing" in engine.arguments else 1)
    return [f"--documents={bench.tokens}", f"--first={first}", f"--count={wanted}"]


def measure_losses(bench: Bench) -> None:
    """What each engine's adapter has learned after one round's steps, on rows that none has trained on."""
    trained: dict[str, tuple[Path, int]] = {}
    for engine in ENGINES:
        if bench.can_measure(engine):
            _, folder = _steps(bench, engine, first=0)
            tokens = sum(step.tokens for step in read(Report, folder / "steps.json").steps)
            trained[engine.name] = folder / "adapter", tokens
    folder = bench.new_folder()
    adapters = {name: adapter for name, (adapter, _) in trained.items()}
    bench.workshop.evaluate(folder, adapters, bench.rows[-HELD_OUT:], compute(threads=bench.threads))
    for name, (_, tokens) in trained.items():
        loss = contract.evaluation(folder, name).loss
        bench.add(losses=[HeldOutLoss(engine=name, trained_tokens=tokens, loss=loss)])
        say(f"held-out loss of {name} after {tokens} tokens: {loss:.4f}")


def measure_fused(bench: Bench) -> None:
    """K small jobs in one pass and one after another, in turns within one process."""
    for number in range(1, bench.sizes.part_rounds + 1):
        finished, folder = bench.run(
            "benchmarks.fused",
            f"--base-model={bench.base_model}",
            f"--rows={bench.slice(0, FUSED_ROWS)}",
            "--precision=bf16",
            f"--device={bench.device}",
            f"--jobs={bench.sizes.fused}",
            f"--steps={bench.sizes.fused_steps}",
        )
        for fused in read(FusedReport, folder / "fused.json").measured:
            turns = [turn for turn in fused.turns if not turn.warm_up]
            by_cpu = bench.device == "cpu"
            measured = FusedMeasured(
                round=number,
                jobs=fused.jobs,
                rows_a_step=fused.rows_a_step,
                tokens=sum(turn.tokens for turn in turns),
                apart_s=sum(turn.apart_cpu_s if by_cpu else turn.apart_wall_s for turn in turns),
                together_s=sum(turn.together_cpu_s if by_cpu else turn.together_wall_s for turn in turns),
                load=finished.load,
            )
            bench.add(fused=[measured])
            faster = measured.apart_s / measured.together_s
            say(f"round {number}: {fused.jobs} jobs of {fused.rows_a_step} rows a step, in one pass: {faster:.2f} x")


def measure_exactness(bench: Bench) -> None:
    """Gradients beside peft's, and in company beside alone."""
    _, folder = bench.run("benchmarks.exactness", f"--base-model={bench.base_model}", f"--rows={bench.slice(0, 16)}")
    exactness = read(Exactness, folder / "exactness.json")
    bench.put(exactness=exactness)
    say(f"gradients differ from peft's by {exactness.fast_from_peft:.1e} of {exactness.largest_gradient:.2f}")
