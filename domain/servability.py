"""What inference servers load: for each named engine a table of what it refuses, told before anybody tries.

vLLM: `PEFTHelper.validate_legal` and the flag --max-lora-rank, as of release 0.33.0. It reads adapter_config.json and
goes by the names of the tensors; what it refuses, it refuses when the adapter is first asked for.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, StrictBool, StrictInt, StrictStr, ValidationError

from domain.base_models import BaseModelFacts
from domain.frozen import Frozen
from domain.refusals import Invalid
from domain.runs import LoraBias, LoraInit, LoraMethod

# The values that --max-lora-rank takes.
VllmRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]
# Starts that leave the base changed: PEFT would take their part out of it again, and vLLM does not.
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq")
_SAVED_HEADS = frozenset({"classifier", "score"})
_UNKNOWN_TO_VLLM = frozenset({"alora_invocation_tokens", "layer_replication", "lora_bias", "use_bdlora", "use_qalora"})


class VllmLimits(Frozen):
    """How a vLLM server was started. Its own default is 16."""

    max_lora_rank: VllmRank = 16


class Servers(Frozen):
    """The engines that have to load an adapter, and how each was started."""

    vllm: VllmLimits | None = None


class AdapterTraits(Frozen):
    """What an adapter's folder is, as far as servers care: the fields of adapter_config.json.

    rank is the largest of all layers'. other: names of further settings of PEFT that are in use.
    """

    peft_type: str = "LORA"
    rank: int
    init: bool | str = True
    use_dora: bool = False
    bias: str = "none"
    modules_to_save: tuple[str, ...] = ()
    other: frozenset[str] = frozenset()

    @classmethod
    def of_method(cls, method: LoraMethod, facts: BaseModelFacts) -> "AdapterTraits":
        """What a run of this method leaves behind: a plain adapter, however it began.

        PiSSA's has up to twice the rank. A base model without biases trains none, whatever the method says; of one
        whose tensors are not known it is not assumed.
        """
        rank = max((method.lora_rank, *method.rank_pattern.values()))
        has_biases = not facts.tensors or any(group.name.endswith(".bias") for group in facts.tensors)
        return cls(
            rank=2 * rank if method.init is LoraInit.PISSA else rank,
            use_dora=method.use_dora,
            bias=method.bias if has_biases else LoraBias.NONE,
        )

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "AdapterTraits":
        """Of a folder's adapter_config.json. Raises Invalid where it is not that of a PEFT adapter."""
        try:
            read = _PeftConfig.model_validate(config)
        except ValidationError:
            raise Invalid(
                "This is not the adapter_config.json of a LoRA adapter.", param="adapter_config.json"
            ) from None
        return cls(
            peft_type=read.peft_type,
            rank=max((read.r, *(read.rank_pattern or {}).values())),
            init=read.init_lora_weights,
            use_dora=read.use_dora,
            bias=read.bias,
            modules_to_save=tuple(read.modules_to_save or ()),
            other=frozenset(key for key, value in config.items() if value and key in _UNKNOWN_TO_VLLM),
        )


class _PeftConfig(BaseModel):
    """The part of adapter_config.json that a server's checks look at."""

    peft_type: StrictStr
    r: StrictInt
    rank_pattern: dict[str, StrictInt] | None = None
    init_lora_weights: StrictBool | StrictStr = True
    use_dora: StrictBool = False
    bias: StrictStr = "none"
    modules_to_save: list[StrictStr] | None = None


class Unservable(NamedTuple):
    """One reason why an engine would not load an adapter; engine and limit by their names in a policy."""

    param: str
    message: str


class _Rule(NamedTuple):
    """An adapter is refused where `refuses`; the message names what is wrong."""

    refuses: Callable[[AdapterTraits, VllmLimits], bool]
    message: str


_VLLM = (
    # The one that --max-lora-rank is about; all others hold for every server.
    _Rule(lambda traits, limits: traits.rank > limits.max_lora_rank, "loads ranks to {limit}, and one is up to {rank}"),
    _Rule(lambda traits, _: traits.peft_type != "LORA", "loads LoRA adapters only"),
    _Rule(lambda traits, _: traits.use_dora, "does not load DoRA"),
    _Rule(lambda traits, _: traits.bias != LoraBias.NONE, "does not load trained biases"),
    _Rule(
        lambda traits, _: str(traits.init).lower().startswith(_CHANGE_THE_BASE),
        "does not load what begins by changing the base model",
    ),
    _Rule(
        lambda traits, _: not _SAVED_HEADS.issuperset(traits.modules_to_save),
        "loads no modules saved beside the factors but a classifier's head",
    ),
    _Rule(lambda traits, _: bool(traits.other & _UNKNOWN_TO_VLLM), "does not know: {other}"),
)


def refusals(traits: AdapterTraits, servers: Servers) -> Iterator[Unservable]:
    """Every reason for which a named engine would not load the adapter."""
    if servers.vllm is None:
        return
    for rule in _VLLM:
        if rule.refuses(traits, servers.vllm):
            said = rule.message.format(
                limit=servers.vllm.max_lora_rank,
                rank=traits.rank,
                other=", ".join(sorted(traits.other & _UNKNOWN_TO_VLLM)),
            )
            yield Unservable("vllm", f"vLLM {said}.")
