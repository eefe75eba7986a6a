"""`rpk-py start`: options to a Config, then the supervisor.

Which process: the supervisor, before it becomes one.  A wrong setting or a start that cannot go
on is one line on standard error and exit code 1.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from rpk_py import __version__
from rpk_py.config import (
    IO_BACKENDS,
    LOG_FORMATS,
    LOG_LEVELS,
    Config,
    ConfigError,
    parse_address,
    parse_setting,
)
from rpk_py.log_setup import make_logger, resolve_format
from rpk_py.startup_error import StartupError
from rpk_py.supervisor import BrokerInfo


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Where topics and metadata are kept; created where missing.",
)
@click.option("--kafka-addr", metavar="HOST:PORT", help="[default: 127.0.0.1:9092] 0: a free port.")
@click.option(
    "--advertise-kafka-addr",
    metavar="HOST[:PORT]",
    help="Address that clients are told. [default: the one they connected to]",
)
@click.option("--admin-addr", metavar="HOST:PORT", help="[default: 127.0.0.1:9644] 0: a free port.")
@click.option("--smp", metavar="N", help="Shards, a process and a core each. [default: 1]")
@click.option(
    "--overprovisioned", is_flag=True, help="Do not pin to cores: tests and shared machines."
)
@click.option(
    "--io-backend",
    type=click.Choice(IO_BACKENDS),
    help="Disk I/O; a named one never falls back. [default: auto]",
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="[default: info]")
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    help="[default: auto: console on a terminal, else json]",
)
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="Any setting of rpk_py/config.py, like --set max_message_bytes=4194304.",
)
def start(**options: Any) -> None:
    """Start the broker in the foreground; SIGTERM or Ctrl-C stops it gracefully."""
    try:
        config = make_config(**options)
    except ConfigError as error:
        _give_up(str(error))
    try:
        # Imported here, once, so that all shards share the memory of it.
        from rpk_py import shard, supervisor

        code = supervisor.run(config, shard.run, lambda info: _print_banner(config, info))
    except StartupError as error:
        _give_up(str(error))
    sys.exit(code)


def make_config(
    data_dir: Path,
    kafka_addr: str | None,
    advertise_kafka_addr: str | None,
    admin_addr: str | None,
    smp: str | None,
    overprovisioned: bool,
    settings: tuple[str, ...],
    **named: str | None,
) -> Config:
    """The configuration that the options mean: defaults, then --set, then the options.

    Raises: ConfigError
    """
    values: dict[str, Any] = {"data_dir": data_dir.absolute()}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError("--set", setting, "must be NAME=VALUE")
        values[name] = parse_setting(name, text)
    if kafka_addr is not None:
        values["kafka_host"], values["kafka_port"] = parse_address("--kafka-addr", kafka_addr, 9092)
    if advertise_kafka_addr is not None:
        values["advertise_host"], values["advertise_port"] = parse_address(
            "--advertise-kafka-addr", advertise_kafka_addr
        )
    if admin_addr is not None:
        values["admin_host"], values["admin_port"] = parse_address("--admin-addr", admin_addr, 9644)
    if overprovisioned:
        values["overprovisioned"] = True
    if smp is not None:
        values["smp"] = parse_setting("smp", smp)
    values.update({name: value for name, value in named.items() if value is not None})
    return Config(**values)


def _give_up(text: str) -> NoReturn:
    print(f"rpk-py: {text}", file=sys.stderr)
    sys.exit(1)


def _print_banner(config: Config, info: BrokerInfo) -> None:
    durable = (
        "write caching: acknowledged records may be lost at a power cut"
        if config.write_caching
        else "acknowledged means durable: on disk before the reply"
    )
    if resolve_format(config.log_format, sys.stderr) == "json":
        make_logger(config).info(
            "rpk-py is ready",
            version=__version__,
            kafka=info.kafka,
            admin=info.admin,
            data_dir=str(info.data_dir),
            disk=info.disk,
            durability=durable,
        )
        return
    print(
        f"rpk-py {__version__} is ready\n"
        f"  kafka   {', '.join(info.kafka)}\n"
        f"  admin   http://{info.admin}/v1/status/ready\n"
        f"  data    {info.data_dir}\n"
        f"  disk    {info.disk}\n"
        f"  {durable}",
        file=sys.stderr,
        flush=True,
    )
