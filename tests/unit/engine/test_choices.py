import pytest
import torch

from engine.base_model import BaseModel
from engine.chat import ChatTokenizer, Message
from engine.choices import count_right, row_candidates, score
from engine.tokenise import Row


def row(answer: str, *choices: str, question: str = "what colour is sky") -> Row:
    messages = (Message("user", question, supervised=False), Message("assistant", answer, supervised=True))
    return Row(line=1, messages=messages, choices=choices)


def naive_scores(base: BaseModel, candidates: list[list[int]]) -> list[float]:
    """Each whole sequence by itself: the summed log-likelihood of all its tokens but the first."""
    scores = []
    for ids in candidates:
        with torch.no_grad():
            log_likelihoods = base.network(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        scores.append(float(log_likelihoods[:-1].gather(1, torch.tensor(ids[1:])[:, None]).sum()))
    return scores


ROWS = [
    row("blue", "red", "blue", "green leaf apple warm", "b", "blue sky"),
    row("{blue} and more", "{red}", "{blue}", "{green leaf}", question="tell me about it, at greater length"),
    row("warm", "warm", "cold"),
]


@pytest.mark.parametrize("longest", [1, 10_000])
@pytest.mark.parametrize("max_tokens", [1, 5000])
def test_one_pass_scores_as_whole_sequences_do(
    base: BaseModel, chat: ChatTokenizer, longest: int, max_tokens: int
) -> None:
    base.attend_to(longest)
    base.network.eval()
    candidates = [row_candidates(one, chat) for one in ROWS]
    for own, ids in zip(score(candidates, base.network, base, max_tokens=max_tokens), candidates, strict=True):
        whole = torch.tensor(naive_scores(base, ids))
        # What all candidates share is left out of our scores; differences are what is compared.
        torch.testing.assert_close(torch.tensor(own) - own[0], whole - whole[0], rtol=1e-4, atol=1e-4)


def test_a_whole_answer_is_scored_with_its_end_of_turn_and_a_beginning_without(chat: ChatTokenizer) -> None:
    end_of_turn = 2
    assert all(ids[-1] == end_of_turn for ids in row_candidates(ROWS[0], chat))
    assert all(ids[-1] != end_of_turn for ids in row_candidates(ROWS[1], chat))


def test_the_likeliest_choice_decides_and_a_row_without_a_right_one_is_missed(
    base: BaseModel, chat: ChatTokenizer
) -> None:
    network = base.network.eval()
    likeliest = [
        one.choices[max(range(len(ids)), key=naive_scores(base, ids).__getitem__)]
        for one in ROWS
        for ids in [row_candidates(one, chat)]
    ]
    right = [
        row(answer, *one.choices, question=one.messages[0].content)
        for one, answer in zip((ROWS[0], ROWS[2]), (likeliest[0], likeliest[2]), strict=True)
    ]
    missed = row("purple", "red", "blue")
    assert count_right([*right, missed], network, base, chat=chat, max_tokens=500) == 2
