"""The general path: any causal language model of transformers, by autograd, many runs in one stream.

Shapes: B rows, T tokens a row, R supervised tokens, D width, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from domain.plans import Precision, Quantisation
from domain.runs import BottleneckMethod, FullMethod, LoraBias, LoraMethod, Method
from engine.adapter import PREFIX
from engine.failures import BadData
from engine.general import attention, bottleneck
from engine.general.adapted import AdaptedLinear, Adapting, is_linear
from engine.general.attention import Attended
from engine.general.bottleneck import Bottlenecks
from engine.general.choice import choose, hidden_states, logits
from engine.general.cost import TEMPORARIES, Kept, KeptBytes, multiplied_weights, trial_factors
from engine.general.head import PORTION_LOGITS, TokenLosses, Wanted, losses_of_hidden, losses_of_logits
from engine.general.layout import Inputs, Layout, packed, padded
from engine.general.loading import DTYPES, load_network
from engine.general.working import BASE_LAYER, Working, replacing, working_copies
from engine.path import LinearShape, Passed, Sums
from engine.stream import Part, Stream, pack
from engine.tokenise import TokenisedRow

TRIAL_TOKENS = 16


class GeneralPath:
    """`engine.path.Path` on transformers' own forward. Its layers are replaced and hooked once, when it is made.

    Not for several threads: what a pass's layers read is set when the pass begins.
    """

    def __init__(self, network: Any, device: torch.device, *, activation_checkpointing: bool = False) -> None:
        """Take over a frozen network in evaluation mode."""
        self.network = network
        self._device = device
        self._attended, self._adapting, self._bottlenecks = Attended(), Adapting(), Bottlenecks()
        self._adapting.anchor = torch.zeros((), device=device, requires_grad=True)
        self._linears = _adapt_linears(network, self._adapting)
        layers = _decoder_layers(network)
        self.bottleneck_sites = bottleneck.find_sites(layers, network.config.get_text_config().hidden_size)
        bottleneck.install(network, self.bottleneck_sites, self._bottlenecks)
        attention.connect(network, self._attended)
        self.choice = choose(network, self._attended, self._linears, device)
        self._multiplied = multiplied_weights(network, self._linears, self.choice.routed)
        self._kept = self._measure_kept()
        self._checkpointed_layers = len(layers) if activation_checkpointing else 0
        if activation_checkpointing:
            _checkpoint(layers.values())

    @classmethod
    def load(
        cls,
        folder: FilePath,
        precision: Precision,
        device: torch.device,
        *,
        quantisation: Quantisation,
        activation_checkpointing: bool,
    ) -> "GeneralPath":
        """An ordinary model folder; precision is not `auto`. Raises BadBaseModel."""
        network = load_network(folder, DTYPES[precision], device, quantisation=quantisation)
        return cls(network, device, activation_checkpointing=activation_checkpointing)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def linears(self) -> Mapping[str, LinearShape]:
        """The layers LoRA may adapt."""
        return {name: linear.shape for name, linear in self._linears.items()}

    def weight(self, linear: str) -> torch.Tensor:
        """A layer's frozen weight in fp32, [out_features, in_features]."""
        return self._linears[linear].dense_weight(torch.float32).detach()

    def biases(self, method: LoraMethod, targets: Sequence[str]) -> dict[str, torch.Tensor]:
        """The base's biases that a method trains when it adapts `targets`, by the names of PEFT's files."""
        found = {}
        for name, parameter in self.network.named_parameters():
            layer, _, kind = name.rpartition(".")
            wanted = method.bias is LoraBias.ALL or (method.bias is LoraBias.LORA_ONLY and layer in targets)
            if kind == "bias" and wanted:
                found[f"{PREFIX}{layer}{BASE_LAYER if layer in targets else ''}.bias"] = parameter.detach()
        return found

    def full_parameters(self) -> dict[str, torch.Tensor]:
        """Every parameter by the network's names, tied ones once. Raises BadData where the base is quantised."""
        if any(linear.quantised for linear in self._linears.values()):
            raise BadData("A quantised base model cannot be trained in full.")
        return {name: parameter.detach() for name, parameter in self.network.named_parameters()}

    def flops(self, tokens: int, supervised_tokens: int) -> float:
        """Two a weight forward and two for the gradient of the inputs; of experts, those a token is sent to."""
        weights = self._multiplied
        return 4 * (weights.a_token * tokens + weights.a_supervised_token * supervised_tokens)

    def activation_bytes(self, tokens: int, longest_row_tokens: int) -> int:
        """What autograd was seen to keep of a token, times the tokens, and the logits that stand at once."""
        fused = self.choice.layout is Layout.PACKED and not self._attended.plain_only
        seen = min(longest_row_tokens, attention.PLAIN_TOKENS) if fused else longest_row_tokens
        kept = self._kept.a_token + self._kept.a_token_seen * seen
        if self._checkpointed_layers:
            inputs = self.network.config.get_text_config().hidden_size * self.network.dtype.itemsize
            kept = inputs * self._checkpointed_layers + kept / self._checkpointed_layers
        portions = PORTION_LOGITS * 4 * torch.float32.itemsize
        if not self.choice.plain_head:
            # The model's own logits and their gradient, whole.
            kept += 2 * self.network.get_output_embeddings().weight.shape[0] * self.network.dtype.itemsize
        return int(TEMPORARIES * (tokens * kept + portions))

    def _measure_kept(self) -> Kept:
        """Of a short document and of one twice as long, when every layer is adapted."""
        short, long = (self._kept_of(tokens) / tokens for tokens in (TRIAL_TOKENS, 2 * TRIAL_TOKENS))
        a_token_seen = max(0.0, long - short) / TRIAL_TOKENS
        return Kept(short - a_token_seen * TRIAL_TOKENS, a_token_seen)

    def _kept_of(self, tokens: int) -> int:
        part = Part(None, [TokenisedRow(1, (0,) * tokens, (False,) * tokens)])
        inputs = self._lay_out(pack([part], self._device), [part])
        dtype = self.network.dtype
        factors = {name: [trial_factors(linear, dtype, self._device)] for name, linear in self._linears.items()}
        with self._given(Working(lora=factors), inputs), KeptBytes(self.network) as kept:
            (hidden_states if self.choice.plain_head else logits)(self.network, inputs)
        return kept.total

    def _lay_out(self, stream: Stream, parts: Sequence[Part]) -> Inputs:
        return packed(stream) if self.choice.layout is Layout.PACKED else padded(stream, parts)

    def fusable(self, method: Method) -> bool:
        """Whether a run of a method may share a pass with others."""
        match method:
            case LoraMethod():
                return method.bias is LoraBias.NONE and not self.choice.routed
            case BottleneckMethod():
                return True
            case FullMethod():
                return False

    def gradients(self, parts: Sequence[Part]) -> Passed:
        """Forward and backward; adds each part's scaled gradient to its adapter's `grads`."""
        return self._pass(parts, training=True)

    def losses(self, parts: Sequence[Part]) -> Passed:
        """Forward only, without dropout."""
        with torch.no_grad():
            return self._pass(parts, training=False)

    def _pass(self, parts: Sequence[Part], *, training: bool) -> Passed:
        stream = pack(parts, self._device)
        if not len(stream.targets_R):
            return Passed([Sums(0.0, 0) for _ in parts], 0)
        inputs = self._lay_out(stream, parts)
        working = working_copies(
            parts, _rows(parts, inputs), self._linears, dtype=self.network.dtype, training=training
        )
        with self._given(working, inputs):
            found = self._forward(
                inputs, Wanted(stream.targets_R, _weights(stream, parts)), whole=bool(working.replaced)
            )
            if training:
                found.total.backward()  # type: ignore[no-untyped-call]
        for leaf in working.leaves:
            leaf.collect()
        return Passed(_sums(stream, found), inputs.ids_BT.numel())

    @contextmanager
    def _given(self, working: Working, inputs: Inputs) -> Iterator[None]:
        """Within it, the network's layers compute this pass."""
        self._adapting.lora, self._adapting.dora = working.lora, working.dora
        self._bottlenecks.by_site = working.bottlenecks
        self._attended.documents = inputs.documents
        try:
            with replacing(self.network, working.replaced):
                yield
        finally:
            self._adapting.lora, self._adapting.dora = {}, {}
            self._bottlenecks.by_site = {}
            self._attended.documents = None

    def _forward(self, inputs: Inputs, wanted: Wanted, *, whole: bool) -> TokenLosses:
        """The losses. `whole`: through the model's own head, which may be trained."""
        if self.choice.plain_head and not whole:
            hidden_RD = hidden_states(self.network, inputs).flatten(0, 1)[inputs.selected_R]
            return losses_of_hidden(hidden_RD, self.network.get_output_embeddings().weight, wanted)
        with _only_at(self.network.get_output_embeddings(), inputs.selected_R):
            return losses_of_logits(logits(self.network, inputs).flatten(0, -2), wanted)


def _adapt_linears(network: Any, adapting: Adapting) -> dict[str, AdaptedLinear]:
    head = network.get_output_embeddings()
    found = {name: module for name, module in network.named_modules() if is_linear(module) and module is not head}
    adapted = {name: AdaptedLinear(linear, name, adapting) for name, linear in found.items()}
    for name, linear in adapted.items():
        network.set_submodule(name, linear)
    return adapted


def _decoder_layers(network: Any) -> dict[str, nn.Module]:
    count = network.config.get_text_config().num_hidden_layers
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return {f"{name}.{number}": layer for number, layer in module.named_children()}
    return {}


def _checkpoint(layers: Any) -> None:
    # Not transformers' own switch, which works in training mode only: that would bring the base's dropout with it.
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def _rows(parts: Sequence[Part], inputs: Inputs) -> Sequence[slice]:
    """Each part's rows. A run alone has all of them, however few a layer sees of those it is routed."""
    return inputs.rows if sum(bool(part.rows) for part in parts) > 1 else [slice(0, None)] * len(parts)


def _weights(stream: Stream, parts: Sequence[Part]) -> torch.Tensor:
    counts = torch.tensor([segment.last - segment.first for segment in stream.segments])
    scales = torch.tensor([part.scale for part in parts])
    return torch.repeat_interleave(scales, counts).to(stream.ids_T.device)


def _sums(stream: Stream, found: TokenLosses) -> list[Sums]:
    loss_R, correct_R = found.loss_R.double().cpu(), found.correct_R.cpu()
    return [
        Sums(float(loss_R[segment.first : segment.last].sum()), int(correct_R[segment.first : segment.last].sum()))
        for segment in stream.segments
    ]


@contextmanager
def _only_at(head: nn.Module, selected_R: torch.Tensor) -> Iterator[None]:
    """Within it, the output head sees hidden states at the selected places only, as one row."""

    def select(_: nn.Module, hidden: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (hidden[0].flatten(0, 1)[selected_R][None],)

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
