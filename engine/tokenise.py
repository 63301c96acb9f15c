"""Rows to tokens, and which of them are supervised: what `inspect` counts is what `train` learns.

A row's ids are those of its whole rendered text. Where a turn begins and ends among them is found by rendering the
conversation up to there: the ids of that text, which inference would see, agree with the row's as far as the turn's
boundary. Padding plays no part: what is supervised is a mask made here, never "everything but the pad token", which
would hide the end-of-turn marker of every base model that pads with it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.chat import BadChatTemplate, ChatTokenizer, Message

BOM = b"\xef\xbb\xbf"


class BadRow(Exception):  # noqa: N818 - named for the fact
    """A line is not a row; the service checks rows on upload, so this is a damaged file."""


@dataclass(frozen=True)
class Row:
    """One conversation, with the line it stands on (from 1) and the answers an evaluation compares."""

    line: int
    messages: tuple[Message, ...]
    choices: tuple[str, ...]


@dataclass(frozen=True)
class TokenisedRow:
    """ids[i] is learned from ids[:i] where supervised[i]. The first token has nothing before it: never supervised."""

    line: int
    ids: tuple[int, ...]
    supervised: tuple[bool, ...]

    @property
    def supervised_tokens(self) -> int:
        """How many tokens the loss counts."""
        return sum(self.supervised)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSON Lines file; blank lines are passed over, as on upload."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            content = line.removeprefix(BOM) if number == 1 else line
            if content.strip():
                yield _parse_row(number, content)


def _parse_row(number: int, line: bytes) -> Row:
    try:
        row = json.loads(line)
        messages = tuple(
            Message(
                role=str(message["role"]),
                content=str(message["content"]),
                supervised=message["role"] == "assistant" and message.get("weight", 1) == 1,
            )
            for message in row["messages"]
        )
        return Row(line=number, messages=messages, choices=tuple(row.get("choices", ())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRow(f"Line {number} is not a row.") from error


def tokenise(row: Row, chat: ChatTokenizer) -> TokenisedRow:
    """Tokenise one row. Raises BadChatTemplate where the template rewrites earlier turns once later ones follow."""
    text = chat.render(row.messages)
    ids = chat.encode(text)
    supervised = [False] * len(ids)
    for place, message in enumerate(row.messages):
        if message.supervised:
            begin, end = answer_span(row.messages[: place + 1], chat)
            if not text.startswith(end):
                raise BadChatTemplate("The base model's chat template rewrites earlier turns of a conversation.")
            first, last = common_prefix(ids, chat.encode(begin)), common_prefix(ids, chat.encode(end))
            supervised[first:last] = [True] * (last - first)
    supervised[:1] = [False] * len(supervised[:1])
    return TokenisedRow(line=row.line, ids=tuple(ids), supervised=tuple(supervised))


def answer_span(messages: Sequence[Message], chat: ChatTokenizer) -> tuple[str, str]:
    """The text before the last message's answer, and the text through its end-of-turn marker.

    The answer is what the template writes after its generation prompt: the content and the marker. White space after
    the marker (SmolLM2 and ChatML write a newline) is not the assistant's: generation ends with the marker.
    """
    begin = chat.render(messages[:-1], ask=True)
    through = chat.render(messages)
    if not through.startswith(begin):
        raise BadChatTemplate("The base model's chat template does not begin an answer with its generation prompt.")
    answer, content = through[len(begin) :], messages[-1].content
    if not answer.startswith(content):
        return begin, begin + answer.rstrip()
    return begin, begin + content + answer[len(content) :].rstrip()


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences have in common at their beginning."""
    length = min(len(left), len(right))
    return next((place for place in range(length) if left[place] != right[place]), length)


def right_choice(row: Row) -> str | None:
    """The longest choice that begins the last message; None where there is none."""
    right = [choice for choice in row.choices if row.messages[-1].content.startswith(choice)]
    return max(right, key=len, default=None)
