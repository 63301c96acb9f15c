"""AdamW over an adapter's flat fp32 masters, and the learning rate as a function of the step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from domain.plans import Precision
from domain.runs import Optimiser, Schedule
from engine.adapter import Adapter

GROWTH_INTERVAL = 2000

# The share of the peak rate by progress in [0, 1) after the warm-up.
SCHEDULES: dict[Schedule, Callable[[float], float]] = {
    Schedule.CONSTANT: lambda _progress: 1.0,
    Schedule.LINEAR: lambda progress: 1.0 - progress,
    Schedule.COSINE: lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


class AdamW:
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) over one flat tensor, in one fused pass over it.

    This is the operator behind torch.optim.AdamW(fused=True). The class around it imports torch's compiler, which takes
    seconds that a short run does not have.
    """

    def __init__(self, adapter: Adapter, settings: Optimiser) -> None:
        self._adapter, self._settings = adapter, settings
        self.tensors = {
            "exp_avg": torch.zeros_like(adapter.grad_P),
            "exp_avg_sq": torch.zeros_like(adapter.grad_P),
            "step": torch.zeros((), dtype=torch.float32, device=adapter.grad_P.device),
        }

    def step(self, learning_rate: float) -> None:
        """Move the masters against their gradient."""
        settings, tensors = self._settings, self.tensors
        tensors["step"] += 1
        torch._fused_adamw_(
            [self._adapter.masters_P.data],
            [self._adapter.grad_P],
            [tensors["exp_avg"]],
            [tensors["exp_avg_sq"]],
            [],
            [tensors["step"]],
            lr=learning_rate,
            beta1=settings.beta1,
            beta2=settings.beta2,
            weight_decay=settings.weight_decay,
            eps=settings.epsilon,
            amsgrad=False,
            maximize=False,
        )

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Set the state that `tensors` were. Raises ValueError where they are another adapter's."""
        if {name: tensor.shape for name, tensor in tensors.items()} != {n: t.shape for n, t in self.tensors.items()}:
            raise ValueError("the optimiser's state is not this adapter's")
        for name, tensor in tensors.items():
            self.tensors[name].copy_(tensor)


@dataclass
class LossScale:
    """What one run's loss is multiplied by in fp16, so that small gradients do not vanish; 1 in other formats.

    Halved where a gradient overflows, doubled after 2,000 steps without (Micikevicius et al. 2018, arXiv:1710.03740).
    """

    value: float = 1.0
    good_steps: int = 0

    @classmethod
    def for_precision(cls, precision: Precision) -> "LossScale":
        """As torch.amp.GradScaler begins."""
        return cls(2.0**16) if precision is Precision.FP16 else cls()

    @property
    def can_shrink(self) -> bool:
        """Whether a smaller scale may still help. At 1 it is the gradient itself that overflows."""
        return self.value > 1.0

    def shrink(self) -> None:
        """After a step with an overflow, which was not taken."""
        self.value, self.good_steps = max(self.value / 2, 1.0), 0

    def count(self) -> None:
        """After a step that was taken."""
        self.good_steps += 1
        if self.good_steps == GROWTH_INTERVAL and self.value > 1.0:
            self.value, self.good_steps = self.value * 2, 0


def learning_rate_at(step: int, total_steps: int, settings: Optimiser) -> float:
    """The rate of the step with this number, from 0; it would be zero at `total_steps`."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(total_steps - settings.warmup_steps, 1)
    return settings.learning_rate * SCHEDULES[settings.schedule](progress)


def clip_gradient(adapter: Adapter, clip_norm: float) -> float:
    """Scale the gradient down to a norm of at most `clip_norm` (0 does not clip); its norm before that."""
    return float(torch.nn.utils.clip_grad_norm_([adapter.masters_P], clip_norm or math.inf))
