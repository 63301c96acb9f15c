"""Which layout a model gets, found by trying: three short documents are computed both ways when the model is loaded.

A packed stream is right only where every layer that mixes tokens is our attention. A model says whether its attention
goes through transformers' interface; whether anything else mixes tokens (state spaces, convolutions, biases made from
a mask), the trial shows: documents that reach one another change the logits as much as other documents would.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from engine.failures import BadBaseModel
from engine.general import attention
from engine.general.adapted import AdaptedLinear
from engine.general.attention import Attended, UnknownAttention
from engine.general.layout import Inputs, Layout, packed, padded, places
from engine.stream import Part, Stream, pack
from engine.tokenise import TokenisedRow

TRIAL_LENGTHS = (9, 4, 6)

# The mean difference of the logits, in their standard deviations. Low precision rounds, and may send a token to
# another expert; a leak is of the order of 1.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.1}

KNOWN_LAYERS = {"full_attention", "sliding_attention", "attention"}


class Choice(NamedTuple):
    """The layout and why; whether logits are the head's product and nothing else; linears that see a choice of rows.

    Such `routed` layers (experts) cannot tell whose rows they see: a run that adapts them is alone in its pass.
    """

    layout: Layout
    reason: str
    plain_head: bool
    routed: frozenset[str]


def choose(network: Any, attended: Attended, linears: Mapping[str, AdaptedLinear], device: torch.device) -> Choice:
    """Try the model, and leave it set to what was chosen."""
    vocabulary = network.get_input_embeddings().num_embeddings
    trial = Part(None, [_row(line, length, vocabulary) for line, length in enumerate(TRIAL_LENGTHS)])
    stream = pack([trial], device)
    rows = padded(stream, [trial])
    default = network.config._attn_implementation  # noqa: SLF001 - transformers has no public way to read it
    with torch.no_grad():
        routed = _routed(network, rows, linears)
        expected_TV = logits(network, rows).flatten(0, 1)[places(stream)]
        _check_causal(network, stream, expected_TV)
        plain_head = _is_plain_head(network, rows)
        reason = _why_not_packed(network, attended, stream, expected_TV)
    if reason is None:
        return Choice(Layout.PACKED, "packed and separate documents agree", plain_head, routed)
    attended.documents = None
    if network.config._attn_implementation != default:  # noqa: SLF001
        network.set_attn_implementation(default)
    return Choice(Layout.PADDED, reason, plain_head, routed)


def logits(network: Any, inputs: Inputs) -> torch.Tensor:
    """The model's own forward; [B, T, V]."""
    result: torch.Tensor = network(input_ids=inputs.ids_BT, position_ids=inputs.positions_BT, use_cache=False).logits
    return result


def hidden_states(network: Any, inputs: Inputs) -> torch.Tensor:
    """What a plain head gets; [B, T, D]."""
    result: torch.Tensor = network.base_model(
        input_ids=inputs.ids_BT, position_ids=inputs.positions_BT, use_cache=False
    ).last_hidden_state
    return result


def _row(line: int, length: int, vocabulary: int) -> TokenisedRow:
    ids = tuple((line * 31 + place * 7 + 1) % vocabulary for place in range(length))
    return TokenisedRow(line, ids, (False,) * length)


def _routed(network: Any, rows: Inputs, linears: Mapping[str, AdaptedLinear]) -> frozenset[str]:
    found = set()

    def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(layer, AdaptedLinear) and inputs[0].numel() != rows.ids_BT.numel() * layer.shape.in_features:
            found.add(layer.name)

    hooks = [linear.register_forward_pre_hook(look) for linear in linears.values()]
    logits(network, rows)
    for hook in hooks:
        hook.remove()
    return frozenset(found)


def _check_causal(network: Any, stream: Stream, expected_TV: torch.Tensor) -> None:
    """Refuse a model that computes its shortest document, the first, otherwise when it is alone."""
    shortest = stream.lengths[0]
    alone_TV = logits(network, Inputs(stream.ids_T[None, :shortest], stream.selected_R, ()))[0]
    if not _agree(alone_TV, expected_TV[:shortest]):
        raise BadBaseModel("The base model is not a causal language model: its tokens see what comes after them.")


def _agree(found_TV: torch.Tensor, expected_TV: torch.Tensor) -> bool:
    difference = (found_TV.float() - expected_TV.float()).abs().mean() / expected_TV.float().std()
    return bool(difference <= TOLERANCE[found_TV.dtype])


def _is_plain_head(network: Any, rows: Inputs) -> bool:
    head = network.get_output_embeddings()
    if type(head) is not nn.Linear or head.bias is not None or network.base_model is network:
        return False
    hidden_BTD = getattr(network.base_model(input_ids=rows.ids_BT, use_cache=False), "last_hidden_state", None)
    if hidden_BTD is None:
        return False
    made, own = head(hidden_BTD), logits(network, rows)
    # Bit for bit: a soft cap changes small logits less than any tolerance would show.
    return made.dtype == own.dtype and torch.equal(made, own)


def _why_not_packed(network: Any, attended: Attended, stream: Stream, expected_TV: torch.Tensor) -> str | None:
    if not network._supports_attention_backend:  # noqa: SLF001
        return "attention does not go through transformers' interface"
    config = network.config.get_text_config()
    if unknown := set(getattr(config, "layer_types", None) or ()) - KNOWN_LAYERS:
        return f"layers of types {', '.join(sorted(unknown))}"
    network.set_attn_implementation(attention.NAME)
    inputs = packed(stream)
    attended.documents = inputs.documents
    try:
        with attention.noting_mask_windows() as mask_windows:
            found_TV = logits(network, inputs)[0]
    except UnknownAttention as unknown_attention:
        return str(unknown_attention)
    if mask_windows != attended.windows:
        return "sliding windows of masks and of attention differ"
    return None if _agree(found_TV, expected_TV) else "documents reach one another"
