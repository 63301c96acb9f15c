"""Which of a row's choices the model finds most likely, by summed log-likelihood.

One rule for all choices of a row: where the right choice is the whole answer, each is scored with its end-of-turn
marker; where it only begins the answer, none is.

The choices of a row go through the network as one tree: the tokens they all begin with stand once, their rests side by
side behind it, each seeing the shared beginning and itself. Shapes: B trees, T tokens, R scored tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import nn

from engine.base_model import BaseModel
from engine.chat import BadChatTemplate, ChatTokenizer, Message
from engine.measuring import PADDING, only_at
from engine.tokenise import Row, answer_span, common_prefix, right_choice

# A longer tree is split, its beginning repeated: attention costs the square of its length.
TREE_TOKENS = 1024


@dataclass(frozen=True)
class Tree:
    """Sequences that begin alike: the shared tokens, and each one's further tokens with its number."""

    shared: tuple[int, ...]
    rests: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def tokens(self) -> int:
        """How many tokens stand in the tree. A rest's last is only predicted."""
        return len(self.shared) + sum(len(rest) - 1 for _, rest in self.rests if rest)


def count_right(
    rows: Sequence[Row], network: nn.Module, base: BaseModel, *, chat: ChatTokenizer, max_tokens: int
) -> int:
    """For how many rows the likeliest of their choices is the right one. A row without a right one counts as missed."""
    candidates = [row_candidates(row, chat) for row in rows]
    scores = score(candidates, network, base, max_tokens=max_tokens)
    likeliest = [row.choices[own.index(max(own))] for row, own in zip(rows, scores, strict=True)]
    return sum(choice == right_choice(row) for row, choice in zip(rows, likeliest, strict=True))


def row_candidates(row: Row, chat: ChatTokenizer) -> list[list[int]]:
    """The row's conversation as tokens, ending in each of its choices."""
    whole = right_choice(row) == row.messages[-1].content
    return [_candidate(row, choice, chat, whole=whole) for choice in row.choices]


def _candidate(row: Row, choice: str, chat: ChatTokenizer, *, whole: bool) -> list[int]:
    messages: list[Message] = [*row.messages[:-1], replace(row.messages[-1], content=choice)]
    begin, end = answer_span(messages, chat)
    if whole:
        return chat.encode(end)
    place = end.find(choice, len(begin))
    if place < 0:
        raise BadChatTemplate("The base model's chat template rewrites an answer.")
    return chat.encode(end[: place + len(choice)])


def score(
    candidates_of_rows: Sequence[Sequence[Sequence[int]]], network: nn.Module, base: BaseModel, *, max_tokens: int
) -> list[list[float]]:
    """For each row, the log-likelihood of each candidate after the tokens that all of the row's candidates begin with.

    What they share adds the same to every score, and is left out.
    """
    scores = [[0.0] * len(candidates) for candidates in candidates_of_rows]
    trees = [(row, tree) for row, candidates in enumerate(candidates_of_rows) for tree in _plant(candidates)]
    for group in _groups(sorted(trees, key=lambda pair: -pair[1].tokens), max_tokens):
        scored = _score_trees([tree for _, tree in group], network, base)
        for (row, tree), log_likelihoods in zip(group, scored, strict=True):
            for (candidate, _), log_likelihood in zip(tree.rests, log_likelihoods, strict=True):
                scores[row][candidate] = log_likelihood
    return scores


def _plant(candidates: Sequence[Sequence[int]]) -> Iterator[Tree]:
    shared = min(common_prefix(candidates[0], candidate) for candidate in candidates)
    rests: list[tuple[int, tuple[int, ...]]] = []
    length = 0
    for number, candidate in enumerate(candidates):
        rest = tuple(candidate[shared:])
        if rests and length + len(rest) > TREE_TOKENS:
            yield Tree(tuple(candidates[0][:shared]), tuple(rests))
            rests, length = [], 0
        rests.append((number, rest))
        length += len(rest)
    yield Tree(tuple(candidates[0][:shared]), tuple(rests))


def _groups(trees: Sequence[tuple[int, Tree]], max_tokens: int) -> Iterator[list[tuple[int, Tree]]]:
    """Trees of like size, longest first, so many at once that padded they keep to the budget."""
    group: list[tuple[int, Tree]] = []
    for pair in trees:
        if group and group[0][1].tokens * (len(group) + 1) > max_tokens:
            yield group
            group = []
        group.append(pair)
    if group:
        yield group


def _score_trees(trees: Sequence[Tree], network: nn.Module, base: BaseModel) -> list[list[float]]:
    """The summed log-likelihood of every rest of every tree."""
    width = max(tree.tokens for tree in trees)
    laid = [_lay_out(tree, width) for tree in trees]
    places = torch.tensor([number * width + place for number, one in enumerate(laid) for place in one.places])
    targets_R = torch.tensor([token for tree in trees for _, rest in tree.rests for token in rest])
    # Every first token of a tree's rests is predicted at the same place: the head looks at it once.
    unique, which_R = torch.unique(places, return_inverse=True)
    sees_B1TT = torch.stack([one.sees_TT for one in laid])[:, None]
    hidden = torch.finfo(base.network.dtype).min
    mask_B1TT = torch.zeros(sees_B1TT.shape, dtype=base.network.dtype).masked_fill(~sees_B1TT, hidden)
    with torch.inference_mode(), base.multiplying(), only_at(base.head, unique.to(base.device)):
        logits = network(
            input_ids=torch.stack([one.ids_T for one in laid]).to(base.device),
            position_ids=torch.stack([one.positions_T for one in laid]).to(base.device),
            attention_mask=mask_B1TT.to(base.device),
            use_cache=False,
        ).logits
        scored_R = logits.float().log_softmax(-1).cpu()[which_R, targets_R]
    remaining = iter(scored_R.tolist())
    return [[sum(next(remaining) for _ in rest) for _, rest in tree.rests] for tree in trees]


class _Laid(NamedTuple):
    """A tree in a line: tokens, their positions in their own sequence, and which tokens each sees.

    places: where the rests' tokens are predicted, rest by rest.
    """

    ids_T: torch.Tensor
    positions_T: torch.Tensor
    sees_TT: torch.Tensor
    places: list[int]


def _lay_out(tree: Tree, width: int) -> _Laid:
    begin = shared = len(tree.shared)
    ids, positions, places = list(tree.shared), list(range(shared)), []
    # A padding token sees itself: attention to nothing is not a number.
    sees_TT = torch.eye(width, dtype=torch.bool)
    sees_TT[:shared, :shared] = _causal(shared)
    for _, rest in tree.rests:
        inner = rest[:-1]
        end = begin + len(inner)
        ids += inner
        positions += range(shared, shared + len(inner))
        places += [shared - 1, *range(begin, end)][: len(rest)]
        sees_TT[begin:end, :shared] = True
        sees_TT[begin:end, begin:end] = _causal(len(inner))
        begin = end
    padding = width - len(ids)
    ids_T, positions_T = torch.tensor(ids + [PADDING] * padding), torch.tensor(positions + [0] * padding)
    return _Laid(ids_T, positions_T, sees_TT, places)


def _causal(length: int) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()
