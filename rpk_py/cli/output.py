"""What client commands print: tables for people, JSON for programs.

Which process: the operator's. Data goes to standard output, notes and errors to standard error.
Invariants: JSON is one document of ASCII characters, its keys are in snake_case; a table has no
boxes and cuts nothing; what a broker sent is printed without its control characters, so that a
name or a message of a peer cannot steer a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

format_option = click.option(
    "--format",
    "output",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="How to print the result; json is one document.",
)


def print_rows(headers: Sequence[str], rows: Iterable[Sequence[Any]], output: str) -> None:
    """Print rows under their headers, or in JSON a list of one object a row.

    Shapes:  headers  in capitals with dashes, as rpk has them; the JSON keys follow from them
             output   "text" or "json", of `format_option`
    """
    if output == "json":
        keys = [header.lower().replace("-", "_") for header in headers]
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
    else:
        print_text(table(headers, rows))


def print_object(value: Mapping[str, Any], output: str) -> None:
    """Print one object: a line for each key, or a JSON object."""
    if output == "json":
        print_json(value)
    else:
        print_text(table((), ((key.upper().replace("_", "-"), value[key]) for key in value)))


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print_text(json.dumps(value, indent=2))


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The lines of a table, without a line feed at the end; nothing in it is shortened."""
    from tabulate import tabulate  # 20 ms, and only what is for people needs it

    cells = [[cell(value) for value in row] for row in rows]
    if not cells and not headers:
        return ""
    return tabulate(cells, headers=headers, tablefmt="plain", disable_numparse=True)


def print_section(title: str, text: str) -> None:
    """Print a part of a longer text under its title."""
    print_text(f"{title}\n{'=' * len(title)}\n{text}\n")


def print_text(text: str) -> None:
    """Print lines to standard output; what its encoding does not have is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def note(text: str) -> None:
    """Tell the person something beside the data, on standard error."""
    click.echo(f"rpk-py: {clean(text)}".encode("utf-8", "backslashreplace"), err=True)


def cell(value: Any) -> str:
    """One value as rpk shows it: lists in brackets, nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(cell, value))}]"
    return clean(str(value))


def clean(text: str) -> str:
    """The text with everything escaped that a terminal would not print."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
