"""Which linear layers a LoRA adapter sits on, with rank and scale; and the shortest way to name them again.

Names and patterns mean what they mean to peft, so that an exported configuration selects the same layers there.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeVar

from domain.runs import LoraMethod
from engine.adapter import SiteShape
from engine.failures import BadData

Number = TypeVar("Number", int, float)


def select_sites(linears: Iterable[str], method: LoraMethod) -> tuple[SiteShape, ...]:
    """The layers the method adapts, in the order of `linears`.

    Raises BadData where a target or a pattern names no layer: a misspelt name must not train less than was asked for.
    """
    adapted = _targets(list(linears), method.target_modules)
    rank_of = pattern_reader(method.rank_pattern, method.lora_rank)
    alpha_of = pattern_reader(method.alpha_pattern, method.alpha)
    for key in (*method.rank_pattern, *method.alpha_pattern):
        if not any(_compile(key).match(linear) for linear in adapted):
            raise BadData(f"The pattern {key!r} names none of the adapted layers.")
    return tuple(
        SiteShape(linear, rank_of(linear), scale_of(alpha_of(linear), rank_of(linear), stabilised=method.use_rslora))
        for linear in adapted
    )


def _targets(linears: list[str], wanted: str | tuple[str, ...]) -> list[str]:
    if isinstance(wanted, str):
        return linears
    for target in wanted:
        if not any(_named(linear, target) for linear in linears):
            raise BadData(f"The base model has no linear layer named {target!r}.")
    adapted = [linear for linear in linears if any(_named(linear, target) for target in wanted)]
    if not adapted:
        raise BadData("The method names no layer to adapt.")
    return adapted


def _named(linear: str, target: str) -> bool:
    return linear == target or linear.endswith(f".{target}")


def pattern_reader(pattern: Mapping[str, Number], default: Number) -> Callable[[str], Number]:
    """A layer's number: that of the first key which matches its name, a regular expression from a dot or the start."""
    compiled = [(_compile(key), number) for key, number in pattern.items()]
    return lambda linear: next((number for key, number in compiled if key.match(linear)), default)


def _compile(key: str) -> re.Pattern[str]:
    try:
        return re.compile(rf"(.*\.)?({key})$")
    except re.error as error:
        raise BadData(f"The pattern {key!r} is no regular expression.") from error


def scale_of(alpha: float, rank: int, *, stabilised: bool) -> float:
    """What B A is multiplied by; `stabilised` is rsLoRA's."""
    return alpha / math.sqrt(rank) if stabilised else alpha / rank


def shortest_names(selected: Collection[str], among: Iterable[str]) -> tuple[str, ...]:
    """The fewest and shortest endings that name exactly `selected`, as `target_modules` or keys of a pattern.

    Two endings' layers are nested or disjoint, so that the shortest exact ending of each layer makes the smallest set.
    A layer whose whole name is another's ending goes by its whole name.
    """
    others = [linear for linear in among if linear not in selected]

    def shortest(linear: str) -> str:
        endings = _endings(linear)
        return next((end for end in endings if not any(_named(other, end) for other in others)), linear)

    return tuple(sorted({shortest(linear) for linear in selected}))


def _endings(linear: str) -> list[str]:
    parts = linear.split(".")
    return [".".join(parts[begin:]) for begin in reversed(range(len(parts)))]
