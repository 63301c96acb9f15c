"""The rows of a run as tokens, in memory on every rank."""

from dataclasses import dataclass
from pathlib import Path

from domain.runs import RunData, TooLong
from engine.chat import BadChatTemplate, ChatTokenizer
from engine.failures import BadBaseModel, BadData
from engine.tokenise import BadRow, Row, TokenisedRow, read_rows, tokenise


@dataclass(frozen=True)
class Rows:
    """What a run learns from and is validated on."""

    train: list[TokenisedRow]
    validation: list[TokenisedRow]
    skipped: int

    @property
    def longest_tokens(self) -> int:
        """Of the longest row of either."""
        return max(len(row.ids) for row in (*self.train, *self.validation))


def load_run_rows(folder: Path, data: RunData, chat: ChatTokenizer) -> Rows:
    """The rows of a run's folder. Raises BadData."""
    train, skipped = load_rows(folder / "train.jsonl", chat, data.max_seq_len, data.too_long)
    if data.validation is None:
        return Rows(train, [], skipped)
    validation, also_skipped = load_rows(folder / "validation.jsonl", chat, data.max_seq_len, data.too_long)
    return Rows(train, validation, skipped + also_skipped)


def load_chat(base_model: Path) -> ChatTokenizer:
    """The base model's tokenizer and template. Raises BadBaseModel."""
    try:
        return ChatTokenizer.load(base_model)
    except BadChatTemplate as error:
        raise BadBaseModel(str(error)) from error


def load_rows(path: Path, chat: ChatTokenizer, max_seq_len: int, too_long: TooLong) -> tuple[list[TokenisedRow], int]:
    """The rows that fit, and how many were skipped for their length. Raises BadData."""
    tokenised = [row for _, row in read_and_tokenise(path, chat)]
    fitting = [row for row in tokenised if len(row.ids) <= max_seq_len]
    skipped = len(tokenised) - len(fitting)
    if skipped and too_long is TooLong.REFUSE:
        raise BadData(f"{skipped} rows have more than {max_seq_len} tokens.")
    if not any(row.supervised_tokens for row in fitting):
        raise BadData("No row has a token to learn from.")
    if untrainable := [row.line for row in fitting if not row.supervised_tokens]:
        raise BadData(f"{len(untrainable)} rows have no token to learn from; the first is line {untrainable[0]}.")
    return fitting, skipped


def read_and_tokenise(path: Path, chat: ChatTokenizer) -> list[tuple[Row, TokenisedRow]]:
    """Every row of a file beside its tokens. Raises BadData."""
    try:
        return [(row, tokenise(row, chat)) for row in read_rows(path)]
    except FileNotFoundError as error:
        raise BadData("A row file is missing.") from error
    except (BadRow, BadChatTemplate) as error:
        raise BadData(str(error)) from error
