"""The command line: one module a command, imported when that command is used.

Which process: the one that the operator starts; `start` becomes the supervisor.
"""

from __future__ import annotations

import click

from rpk_py import __version__


def _start() -> click.Command:
    from rpk_py.cli.start import start

    return start


def _debug() -> click.Command:
    from rpk_py.cli.debug import debug

    return debug


# command -> (its loader, one line for --help)
_COMMANDS = {
    "start": (_start, "Start the broker."),
    "debug": (_debug, "Look into files of a data directory."),
}


class _LazyGroup(click.Group):
    """Imports a command's module only when that command runs: a start stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _COMMANDS.get(cmd_name)
        return found and found[0]()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rpk-py")
def root() -> None:
    """A Kafka-compatible message broker: what it has acknowledged is on disk."""
