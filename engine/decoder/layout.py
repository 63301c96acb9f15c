"""How attention sees the stream: documents of like length side by side, padded to the longest of their bucket.

A padded place of a document is a slot. Padding stands behind a document, where its tokens never look, and what it
computes is dropped. All else in a layer works on the tokens, which have no padding.

Shapes: T tokens, N documents, S slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

# Documents share a bucket when the longest is at most this much longer than the shortest: by share, or by tokens.
LONGER_SHARE, LONGER_TOKENS = 1.25, 8

# Buckets' lengths are multiples of this: the kernels take so many numbers at once.
STEP = 16


@dataclass(frozen=True)
class Bucket:
    """Documents of `length` slots each, which begin at `slot`."""

    documents: int
    length: int
    slot: int

    @property
    def slots(self) -> int:
        """Those of all documents."""
        return self.documents * self.length


@dataclass(frozen=True)
class Layout:
    """documents_N4 holds each document's first token, tokens, padded length and first slot, in the buckets' order."""

    buckets: tuple[Bucket, ...]
    documents_N4: torch.Tensor
    tokens: int
    slots: int

    @cached_property
    def token_of_slot(self) -> torch.Tensor:
        """[S]: the token in each slot, and T in padding."""
        tokens_S = torch.full((self.slots,), self.tokens)
        for begin, length, _, slot in self.documents_N4.tolist():
            tokens_S[slot : slot + length] = torch.arange(begin, begin + length)
        return tokens_S

    @cached_property
    def slot_of_token(self) -> torch.Tensor:
        """[T]: the slot of each token."""
        slots = torch.empty(self.tokens + 1, dtype=torch.long)
        slots[self.token_of_slot] = torch.arange(self.slots)
        return slots[:-1]

    @cached_property
    def place_of_slot(self) -> torch.Tensor:
        """[S]: how far from its document's beginning each slot is."""
        places = [torch.arange(bucket.length).repeat(bucket.documents) for bucket in self.buckets]
        return torch.cat(places) if places else torch.empty(0, dtype=torch.long)


def lay_out(lengths: Sequence[int]) -> Layout:
    """Sort documents into buckets by length. Which run a document is of plays no part: attention carries no LoRA."""
    begins = _running_sums(lengths)
    order = sorted((place for place, length in enumerate(lengths) if length), key=lambda place: lengths[place])
    buckets: list[Bucket] = []
    documents: list[tuple[int, int, int, int]] = []
    slot = 0
    for group in _alike(order, lengths):
        padded = -(-lengths[group[-1]] // STEP) * STEP
        buckets.append(Bucket(len(group), padded, slot))
        for place in group:
            documents.append((begins[place], lengths[place], padded, slot))
            slot += padded
    documents_N4 = torch.tensor(documents, dtype=torch.long).view(-1, 4)
    return Layout(tuple(buckets), documents_N4, sum(lengths), slot)


def _alike(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    for place in order:
        shortest = lengths[groups[-1][0]] if groups else 0
        if groups and lengths[place] <= max(shortest * LONGER_SHARE, shortest + LONGER_TOKENS):
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _running_sums(lengths: Sequence[int]) -> list[int]:
    begins, total = [], 0
    for length in lengths:
        begins.append(total)
        total += length
    return begins
