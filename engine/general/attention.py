"""Causal attention within each document of a packed stream, through transformers' attention interface.

Documents of like length are computed together, so that no mask over the whole stream is ever made. Short documents
take plain batched products: on a CPU torch's fused attention is slower there, above all in its backward pass.

Shapes: T tokens of the stream, G gathered places (T and some padding), N documents of a bucket, L their longest,
H query heads, K key heads, Q = H / K query heads a key head, D head width, C queries of a block, M keys they may see.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

# The name under which transformers' models find this module.
NAME = "documents"

# Up to this length documents take plain products on a CPU; longer ones fused attention, which keeps no L x L numbers.
# Where fused attention cannot do what a layer asks, so many queries at a time take plain products.
PLAIN_TOKENS = 384

# A bucket's documents are at most a quarter longer than its shortest, or by so many tokens.
SLACK_TOKENS = 8
BUCKET_TOKENS = 2048

# What models hand to every attention function, and what changes nothing in it.
IGNORED = {"position_ids", "position_embeddings", "cache", "use_cache", "output_attentions", "output_router_logits"}


class UnknownAttention(Exception):  # noqa: N818 - named for the fact
    """The model asks its attention for what this module does not know."""


class Bucket(NamedTuple):
    """Documents of like length: N rows of L places."""

    documents: int
    length: int


@dataclass(frozen=True)
class Documents:
    """Where a stream's documents lie. gather_G reads them into buckets, back_T reads their tokens back.

    Padding repeats a document's first token: nothing real looks at it, and its gradient is zero.
    """

    gather_G: torch.Tensor
    back_T: torch.Tensor
    buckets: tuple[Bucket, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Documents":
        """Sort the documents into buckets. They lie one after another from the stream's beginning."""
        begins = [0]
        for length in lengths:
            begins.append(begins[-1] + length)
        gather: list[int] = []
        back = [0] * begins[-1]
        buckets: list[Bucket] = []
        for group in _groups(lengths):
            longest = lengths[group[-1]]
            for document in group:
                begin, length = begins[document], lengths[document]
                back[begin : begin + length] = range(len(gather), len(gather) + length)
                gather += range(begin, begin + length)
                gather += [begin] * (longest - length)
            buckets.append(Bucket(len(group), longest))
        return cls(
            torch.tensor(gather, dtype=torch.long).to(device),
            torch.tensor(back, dtype=torch.long).to(device),
            tuple(buckets),
        )


def _groups(lengths: Sequence[int]) -> Iterator[list[int]]:
    group: list[int] = []
    for document in sorted(range(len(lengths)), key=lambda document: (lengths[document], document)):
        length = lengths[document]
        if not length:
            continue
        if group:
            shortest = lengths[group[0]]
            fits = length <= max(shortest * 5 // 4, shortest + SLACK_TOKENS)
            if not fits or length * (len(group) + 1) > BUCKET_TOKENS:
                yield group
                group = []
        group.append(document)
    if group:
        yield group


@dataclass
class Attended:
    """What a model's attention modules read during a pass, and what they were seen to ask.

    `plain_only`: some layer asks what fused attention cannot do, so that long documents take plain products as well.
    """

    documents: Documents | None = None
    windows: set[int] = field(default_factory=set)
    plain_only: bool = False


# By module, because transformers' interface is a table of plain functions, and the backward pass of activation
# checkpointing may call them from another thread.
_ATTENDED: WeakKeyDictionary[nn.Module, Attended] = WeakKeyDictionary()

_MASK_WINDOWS: ContextVar[set[int] | None] = ContextVar("_MASK_WINDOWS", default=None)


def connect(network: nn.Module, attended: Attended) -> None:
    """Let every attention module of a network read `attended`."""
    for module in network.modules():
        _ATTENDED[module] = attended


@contextmanager
def noting_mask_windows() -> Iterator[set[int]]:
    """Within it, the sliding windows that models ask masks for are added to the yielded set."""
    windows: set[int] = set()
    token = _MASK_WINDOWS.set(windows)
    try:
        yield windows
    finally:
        _MASK_WINDOWS.reset(token)


def _no_mask(*, use_vmap: bool = False, local_size: int | None = None, **_: Any) -> None:
    """Answer a model that asks for a mask. Raises UnknownAttention for masks beyond causal and sliding ones."""
    if use_vmap:
        raise UnknownAttention("a mask of the model's own")
    windows = _MASK_WINDOWS.get()
    if windows is not None and local_size is not None:
        windows.add(local_size)


def _attend(  # noqa: PLR0917 - transformers calls it so
    module: nn.Module,
    query_1HTD: torch.Tensor,
    key_1KTD: torch.Tensor,
    value_1KTD: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Attend within documents; [1, T, H, D]. `softcap` bounds scores by tanh, `s_aux` are attention sinks a head."""
    unknown = {name for name, value in others.items() if value is not None} - IGNORED
    if unknown or attention_mask is not None or dropout or is_causal is False:
        raise UnknownAttention(f"attention with {sorted(unknown)}")
    attended = _ATTENDED[module]
    if attended.documents is None:
        raise UnknownAttention("attention outside a packed pass")
    if sliding_window is not None:
        attended.windows.add(sliding_window)
    attended.plain_only |= sliding_window is not None or softcap is not None or s_aux is not None
    rule = Rule(sliding_window, softcap, s_aux)
    scale = query_1HTD.shape[-1] ** -0.5 if scaling is None else scaling
    out_THD = _attend_documents(
        (query_1HTD[0] * scale).transpose(0, 1),
        key_1KTD[0].transpose(0, 1),
        value_1KTD[0].transpose(0, 1),
        documents=attended.documents,
        rule=rule,
    )
    return out_THD[None], None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _no_mask)


class Rule(NamedTuple):
    """What a layer's attention does beside being causal. A window counts the query's own token."""

    window: int | None
    softcap: float | None
    sinks_H: torch.Tensor | None


def _attend_documents(
    query_THD: torch.Tensor, key_TKD: torch.Tensor, value_TKD: torch.Tensor, *, documents: Documents, rule: Rule
) -> torch.Tensor:
    places = [documents_ * length for documents_, length in documents.buckets]
    query, key, value = (
        torch.split(_gather(tensor, documents.gather_G, documents.back_T), places)
        for tensor in (query_THD, key_TKD, value_TKD)
    )
    outs = [
        _attend_bucket(*gathered, bucket=bucket, rule=rule)
        for *gathered, bucket in zip(query, key, value, documents.buckets, strict=True)
    ]
    out_GHD = outs[0] if len(outs) == 1 else torch.cat(outs)
    out_THD: torch.Tensor = _back(out_GHD, documents.back_T)
    return out_THD


class _Gather(torch.autograd.Function):
    """x[gather]; its gradient is read back, where index_select would add into zeros place by place."""

    @staticmethod
    def forward(ctx: Any, x_THD: torch.Tensor, gather_G: torch.Tensor, back_T: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back_T)
        return x_THD.index_select(0, gather_G)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (back_T,) = ctx.saved_tensors
        return grads[0].index_select(0, back_T), None, None


class _Back(torch.autograd.Function):
    """x[back]; padding gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x_GHD: torch.Tensor, back_T: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back_T)
        ctx.places = len(x_GHD)
        return x_GHD.index_select(0, back_T)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (back_T,) = ctx.saved_tensors
        d_GHD = grads[0].new_zeros(ctx.places, *grads[0].shape[1:])
        return d_GHD.index_copy_(0, back_T, grads[0]), None


_gather: Any = _Gather.apply
_back: Any = _Back.apply


def _attend_bucket(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, bucket: Bucket, rule: Rule
) -> torch.Tensor:
    """Attention of N documents of L places, laid end to end as the arguments and the result are."""
    documents, length = bucket
    bounded = rule.window is not None and rule.window < length
    plain = query.device.type == "cpu" and length <= PLAIN_TOKENS
    if not plain and not bounded and rule.softcap is None and rule.sinks_H is None:
        query_NHLD, key_NKLD, value_NKLD = (
            tensor.view(documents, length, *tensor.shape[1:]).transpose(1, 2) for tensor in (query, key, value)
        )
        out_NHLD = functional.scaled_dot_product_attention(
            query_NHLD,
            key_NKLD,
            value_NKLD,
            is_causal=True,
            scale=1.0,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return out_NHLD.transpose(1, 2).flatten(0, 1)
    heads, key_heads = query.shape[1], key.shape[1]
    group = heads // key_heads
    # Query heads of one key head are stacked as rows, so that keys and values need not be repeated.
    query_BQLD = query.view(documents, length, key_heads, group, -1).permute(0, 2, 3, 1, 4).flatten(0, 1)
    key_BLD, value_BLD = (
        tensor.view(documents, length, key_heads, -1).transpose(1, 2).flatten(0, 1) for tensor in (key, value)
    )
    sinks_BQ = None if rule.sinks_H is None else rule.sinks_H.view(key_heads, group).repeat(documents, 1)
    block = PLAIN_TOKENS
    outs = [
        _attend_block(
            query_BQLD[:, :, begin : begin + block], key_BLD, value_BLD, begin=begin, rule=rule, sinks=sinks_BQ
        )
        for begin in range(0, length, block)
    ]
    out_BQLD = outs[0] if len(outs) == 1 else torch.cat(outs, dim=2)
    out_NLKQD = out_BQLD.view(documents, key_heads, group, length, -1).permute(0, 3, 1, 2, 4)
    return out_NLKQD.reshape(documents * length, heads, -1)


def _attend_block(
    query_BQCD: torch.Tensor,
    key_BLD: torch.Tensor,
    value_BLD: torch.Tensor,
    *,
    begin: int,
    rule: Rule,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Plain attention of the queries from `begin` on; B is documents times key heads."""
    groups, queries = query_BQCD.shape[1:3]
    end = begin + queries
    first = 0 if rule.window is None else max(0, begin - rule.window + 1)
    key_BMD, value_BMD = key_BLD[:, first:end], value_BLD[:, first:end]
    scores_BRM = torch.bmm(query_BQCD.flatten(1, 2), key_BMD.transpose(1, 2))
    if rule.softcap is not None:
        scores_BRM = torch.tanh(scores_BRM / rule.softcap) * rule.softcap
    mask_CM = _mask(range(begin, end), range(first, end), rule.window, like=scores_BRM)
    scores_BRM = scores_BRM + mask_CM.repeat(groups, 1)
    if sinks is None:
        shares_BRM = torch.softmax(scores_BRM, -1)
    else:
        sinks_BR1 = sinks.repeat_interleave(queries, dim=1)[..., None].to(scores_BRM.dtype)
        shares_BRM = torch.softmax(torch.cat((scores_BRM, sinks_BR1), -1), -1)[..., :-1]
    return torch.bmm(shares_BRM, value_BMD).view(len(value_BLD), groups, queries, -1)


def _mask(queries: range, keys: range, window: int | None, *, like: torch.Tensor) -> torch.Tensor:
    """0 where a query sees a key, else minus infinity; [C, M]."""
    query_C1 = torch.arange(queries.start, queries.stop, device=like.device)[:, None]
    key_M = torch.arange(keys.start, keys.stop, device=like.device)
    hidden_CM = key_M > query_C1
    if window is not None:
        hidden_CM |= key_M <= query_C1 - window
    return like.new_zeros(hidden_CM.shape).masked_fill_(hidden_CM, float("-inf"))
