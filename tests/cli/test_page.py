"""docs/CLI.md says what the commands are, and every command says what a stranger needs."""

from __future__ import annotations

import click
import pytest

from rpk_py.cli.output import cell, table
from tests.cli import page

CLIENT_COMMANDS = [
    (path, command)
    for path, command in page.commands()
    if path.startswith(("rpk-py topic", "rpk-py cluster")) and not isinstance(command, click.Group)
]
WITH_RESULT = [
    (path, command)
    for path, command in CLIENT_COMMANDS
    if not path.endswith(("topic produce", "topic consume"))  # their --format is one of records
]


def test_the_page_is_what_the_commands_say() -> None:
    written = page.PAGE.read_text(encoding="utf-8")
    assert written == page.document(), f"stale, run: {page.COMMAND}"


def test_every_client_command_takes_brokers() -> None:
    for path, command in CLIENT_COMMANDS:
        assert any(p.name == "brokers" for p in command.params), path


@pytest.mark.parametrize(("path", "command"), WITH_RESULT, ids=[path for path, _ in WITH_RESULT])
def test_help_has_an_example_the_json_and_the_exit_codes(path: str, command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=path))
    assert f"Example:  {path}" in text
    assert "JSON: " in text
    assert "Exit code: 0 " in text
    assert "--format" in text


def test_a_table_has_no_boxes_and_cuts_nothing() -> None:
    long = "x" * 300
    text = table(("NAME", "LIST"), [(long, [1, 2]), (None, True), ("007", 1e3)])
    lines = [line.split("  ") for line in text.splitlines()]
    assert lines[1] == [long, "[1 2]"]
    assert [line[0] for line in lines] == ["NAME" + "", long, "-", "007"]


def test_what_a_peer_sends_does_not_steer_the_terminal() -> None:
    assert cell("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\\nc\\u202e"
    assert cell("nörd") == "nörd"
