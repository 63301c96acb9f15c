"""A short run of `make chaos` by a fixed seed: everything at once."""

from collections.abc import Callable

from chaos.installation import Installation, Shape
from chaos.run import Chaos, Plan
from chaos.workload import Workload

PLAN = Plan(seed=1, kills=12, stops=3, rounds=0, strikes=6, between_strikes_s=1.5)


def test_a_seeded_run_keeps_every_promise(install: Callable[..., tuple[Installation, Workload]]) -> None:
    # `make chaos` has somebody hear of every event as well, and waits a minute for what a killed deliverer had in hand.
    installation, workload = install(Shape(workers=2), departments=2, seed=PLAN.seed, hears=False)
    results = Chaos(installation, workload, PLAN).run()
    assert results.broken == {}, results.table()
    assert results.faults["SIGKILL"] >= PLAN.kills
    assert results.faults["SIGSTOP"] >= PLAN.stops
    assert sum(number for name, number in results.faults.items() if ":" in name) == PLAN.strikes
    assert results.versions == results.jobs["succeeded"] > 0
