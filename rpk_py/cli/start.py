"""`rpk-py start`: settings of all sources to a Config, then the supervisor.

Which process: the supervisor, before it becomes one.  A wrong setting or a start that cannot go
on is one line on standard error and exit code 1.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rpk_py import __version__, cores, data_dir
from rpk_py.config import SETTINGS, Config
from rpk_py.log_setup import make_logger, resolve_format
from rpk_py.setting import ConfigError
from rpk_py.settings_sources import ADDRESSES, as_toml, flag_of, load
from rpk_py.startup_error import StartupError
from storage.device import IN_MEMORY

if TYPE_CHECKING:
    from rpk_py.supervisor import BrokerInfo

# Settings with an option of their own; all others are given by --set.
_FLAGS = (
    "data_dir",
    "kafka_addr",
    "advertise_kafka_addr",
    "admin_addr",
    "smp",
    "overprovisioned",
    "io_backend",
    "log_level",
    "log_format",
)
_METAVARS = {"advertise_kafka_addr": "HOST[:PORT]", "smp": "N|auto", "data_dir": "DIRECTORY"}


def _flags(command: Any) -> Any:
    """Give a command the options of _FLAGS, told as SETTINGS tells them."""
    for name in reversed(_FLAGS):
        if name in ADDRESSES:
            host, port, meaning = ADDRESSES[name]
            defaults = (SETTINGS[host].default, SETTINGS[port].default)
            default = "" if defaults[0] is None else "{}:{}".format(*defaults)
            metavar = "HOST:PORT"
            is_switch = False
        else:
            setting = SETTINGS[name]
            meaning = setting.meaning
            is_switch = setting.kind == "bool"
            default = "" if is_switch else str(setting.default)
            metavar = "|".join(setting.choices) or "TEXT"
        command = click.option(
            flag_of(name),
            metavar=None if is_switch else _METAVARS.get(name, metavar),
            is_flag=is_switch,
            flag_value="true" if is_switch else None,
            help=f"{meaning[0].upper()}{meaning[1:]}."
            + (f" [default: {default}]" if default else ""),
        )(command)
    return command


@click.command()
@_flags
@click.option(
    "--set",
    "assignments",
    metavar="NAME=VALUE",
    multiple=True,
    help="Any setting, like --set max_message_bytes=4194304; may be repeated.",
)
@click.option(
    "--config",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="TOML file of settings. [default: the one that RPK_CONFIG names]",
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print every setting with its source and meaning, as a file for --config, and exit.",
)
def start(
    assignments: tuple[str, ...], file: Path | None, print_config: bool, **options: str | None
) -> None:
    """Start the broker in the foreground; SIGTERM or Ctrl-C stops it gracefully.

    Settings come from their defaults, then from --config, then from variables of the environment
    like RPK_KAFKA_PORT=19092, then from --set and the other options; the later one wins.
    """
    flags = {name: text for name, text in options.items() if text is not None}
    try:
        loaded = load(flags, assignments, os.environ, file, cores.usable_count)
        if print_config:
            # TOML is UTF-8, whatever the terminal's encoding is.
            sys.stdout.buffer.write(as_toml(loaded).encode())
            return
        config = loaded.config
        gc.disable()  # nothing that a start makes is garbage; the supervisor enables it
        # Imported here, once, so that all shards share the memory of it.
        from rpk_py import shard, supervisor

        code = supervisor.run(config, shard.run, lambda info: print_banner(config, info))
    except (ConfigError, StartupError) as error:
        _give_up(str(error))
    sys.exit(code)


def _give_up(text: str) -> NoReturn:
    print(f"rpk-py: {text}", file=sys.stderr)
    sys.exit(1)


def print_banner(config: Config, info: BrokerInfo) -> None:
    """Say that the broker is ready, where, and what an acknowledgement is worth."""
    durable = _durability(config, info)
    if resolve_format(config.log_format, sys.stderr) == "json":
        make_logger(config).info(
            "rpk-py is ready",
            version=__version__,
            kafka=info.kafka,
            cores=info.cores,
            admin=info.admin,
            data_dir=str(info.data_dir),
            disk=info.disk,
            durability=durable,
        )
        return
    print(
        f"rpk-py {__version__} is ready\n"
        f"  kafka   {_listeners(info)}\n"
        f"  admin   http://{info.admin}/v1/status/ready\n"
        f"  data    {info.data_dir}\n"
        f"  disk    {info.disk}\n"
        f"  {durable}",
        file=sys.stderr,
        flush=True,
    )


def _durability(config: Config, info: BrokerInfo) -> str:
    kind = data_dir.file_system(config.data_dir)
    if kind in IN_MEMORY:
        return f"the data directory is on {kind}, in memory: nothing outlives this machine's uptime"
    caching = info.caching_nodes
    if caching == config.node_ids:
        return "write caching: acknowledged records may be lost at a power cut"
    text = "acknowledged means durable: on disk before the reply"
    excepted = [f"node {node_id}" for node_id in caching]
    if info.caching_topics:
        excepted.append(f"topics with write.caching=true: {info.caching_topics}")
    return f"{text}; not so with write caching: {', '.join(excepted)}" if excepted else text


def _listeners(info: BrokerInfo) -> str:
    """The address of every shard, each on a line, with the core that it is pinned to."""
    width = max(map(len, info.kafka))
    rows = [
        f"{address:{width}}  {'not pinned' if core is None else f'core {core}'}"
        for address, core in zip(info.kafka, info.cores, strict=True)
    ]
    return "\n          ".join(rows)
