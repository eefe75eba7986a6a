"""The command line: one module a command, imported when that command is used.

Which process: the one that the operator starts; `start` becomes the supervisor. Client commands
speak Kafka's protocol to any broker and import neither storage nor the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click

from rpk_py import __version__

# Where --brokers of a command's groups is kept (click's meta is one for a command and its groups).
BROKERS = "rpk_py.brokers"

# command -> (its loader, one line for --help)
Loaders = Mapping[str, tuple[Callable[[], click.Command], str]]


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command runs: a start stays fast."""

    def __init__(
        self,
        *args: object,
        loaders: Loaders | None = None,
        aliases: Mapping[str, str] | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._loaders = loaders or {}
        self._aliases = aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._loaders)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = self._loaders.get(self._aliases.get(cmd_name, cmd_name))
        return found and found[0]()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._loaders.items()])


def keep_brokers(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Callback of --brokers of a group: the command below, which knows it too, takes it."""
    if value is not None:
        ctx.meta[BROKERS] = value


# For groups. A command has `client.brokers_option`, which goes before this one if both are given.
group_brokers_option = click.option(
    "--brokers",
    "-b",
    metavar="HOST:PORT,...",
    expose_value=False,
    callback=keep_brokers,
    help="The brokers that commands below connect to; may also stand behind the command.",
)


def _start() -> click.Command:
    from rpk_py.cli.start import start

    return start


def _run() -> click.Command:
    from rpk_py.cli.run import run

    return run


def _doctor() -> click.Command:
    from rpk_py.cli.doctor import doctor

    return doctor


def _durability() -> click.Command:
    from rpk_py.cli.durability import durability

    return durability


def _topic() -> click.Command:
    from rpk_py.cli.topic import topic

    return topic


def _cluster() -> click.Command:
    from rpk_py.cli.cluster import cluster

    return cluster


def _group() -> click.Command:
    from rpk_py.cli.group import group

    return group


def _completion() -> click.Command:
    from rpk_py.cli.completion import completion

    return completion


def _debug() -> click.Command:
    from rpk_py.cli.debug import debug
    from rpk_py.cli.debug_files import partition, verify
    from rpk_py.cli.debug_repair import cut_log, journal, rebuild_index

    for command in (verify, partition, rebuild_index, cut_log, journal):
        debug.add_command(command)
    return debug


_COMMANDS: Loaders = {
    "start": (_start, "Start the broker."),
    "topic": (_topic, "Create, show, change, write, read and delete topics."),
    "group": (_group, "List, show, move and delete consumer groups."),
    "cluster": (_cluster, "Show a cluster, its health and its configs."),
    "run": (_run, "Run a command with a throw-away broker."),
    "doctor": (_doctor, "Find out why clients have trouble with a cluster."),
    "durability": (_durability, "Tell what an acknowledgement means on this machine."),
    "debug": (_debug, "Look into files of a data directory."),
    "completion": (_completion, "Print what makes a shell complete commands and topics."),
}


@click.group(
    cls=LazyGroup,
    loaders=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="rpk-py")
@group_brokers_option
def root() -> None:
    """A Kafka-compatible message broker: what it has acknowledged is on disk."""
