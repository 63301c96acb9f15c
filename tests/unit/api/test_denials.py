from uuid import uuid4

from api.denials import BURST, PER_SECOND, DenialBudget


def test_a_key_has_a_burst_and_then_a_rate_and_keys_do_not_share() -> None:
    now = 0.0
    budget, key, other = DenialBudget(clock=lambda: now), uuid4(), uuid4()
    assert [budget.take(key) for _ in range(int(BURST) + 2)] == [True] * int(BURST) + [False] * 2
    assert budget.take(other)
    now += 1 / PER_SECOND
    assert [budget.take(key) for _ in range(2)] == [True, False]
    now += 1e9
    assert [budget.take(key) for _ in range(int(BURST) + 1)] == [True] * int(BURST) + [False]
