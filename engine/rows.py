"""The rows of a run as tokens, in memory on every rank."""

from pathlib import Path

from domain.runs import TooLong
from engine.chat import BadChatTemplate, ChatTokenizer
from engine.failures import BadBaseModel, BadData
from engine.tokenise import BadRow, Row, TokenisedRow, read_rows, tokenise


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
