"""What people read, and what programs read instead with --json."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.connection import JsonObject

# Wide enough for ids beside names when nobody watches: a pipe must not fold what another program looks for.
PIPE_COLUMNS = 240


@dataclass(frozen=True)
class Column:
    """One column of a table: a field's name, or what to show of the object."""

    heading: str
    value: str | Callable[[JsonObject], Any]

    def of(self, item: JsonObject) -> Text:
        """The cell, without anything that could steer a terminal."""
        found = item.get(self.value) if isinstance(self.value, str) else self.value(item)
        return Text(plain(found))


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)


@dataclass(frozen=True)
class Output:
    """Standard output, for a person or as JSON."""

    as_json: bool
    console: Console = field(default_factory=_console)

    def rows(self, items: Iterable[JsonObject], columns: Sequence[Column]) -> None:
        """A list: a table with one row each, or a JSON array."""
        found = list(items)
        if self.as_json:
            self.json(found)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.heading, overflow="fold")
        for item in found:
            table.add_row(*(column.of(item) for column in columns))
        self.console.print(table if found else Text("none", style="dim"))

    def one(self, item: JsonObject, columns: Sequence[Column]) -> None:
        """One object: a line a field, or the JSON object."""
        if self.as_json:
            self.json(item)
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for column in columns:
            table.add_row(column.heading, column.of(item))
        self.console.print(table)

    def said(self, item: JsonObject, sentence: str) -> None:
        """A deed done: a sentence, or the JSON object that answered."""
        if self.as_json:
            self.json(item)
        else:
            self.console.print(Text(plain(sentence)), soft_wrap=True)

    @property
    def story(self) -> Console:
        """Where progress is told: standard output, or standard error where that is kept for JSON."""
        return Console(stderr=True, highlight=False) if self.as_json else self.console

    def json(self, value: Any) -> None:
        """The objects as the API sent them."""
        self.console.file.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def plain(value: Any) -> str:
    """A value as text on one line. Control characters, which could steer a terminal, become a mark."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(plain(each) for each in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{plain(name)}={plain(each)}" for name, each in value.items()) or "-"
    return "".join(character if character.isprintable() else "\ufffd" for character in str(value))


def when(unix_s: float | None) -> str:
    """A moment of the API, in UTC."""
    return "-" if unix_s is None else f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%d %H:%M:%S}Z"


def size(size_bytes: float | None) -> str:
    """Bytes as people say them: 269.1 MB."""
    if size_bytes is None:
        return "-"
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(int(math.log(max(size_bytes, 1), 1000)), len(units) - 1)
    return f"{size_bytes / 1000**power:.{1 if power else 0}f} {units[power]}"


def duration(seconds: float | None) -> str:
    """Seconds as `1 h 02 min`, `3 min 20 s` or `45 s`."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:  # noqa: PLR2004 - minutes of an hour
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def share(value: float | None) -> str:
    """A share of one as a percentage."""
    return "-" if value is None else f"{value:.1%}"


def number(value: float | None, digits: int = 3) -> str:
    """A number as far as it is worth reading."""
    return "-" if value is None else f"{value:.{digits}f}"
