"""docs/CONFIGURATION.md, made from the table that the code reads.

    python -m tests.broker.config_table > docs/CONFIGURATION.md

Not a test: `test_config_table.py` holds the page to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rpk_py.broker_configs import BY_SETTING
from rpk_py.config import SETTINGS
from rpk_py.setting import Setting
from rpk_py.settings_sources import ADDRESSES, variable_of

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m tests.broker.config_table > docs/CONFIGURATION.md"

INTRODUCTION = f"""\
# Configuration

Everything about a broker that can be set, and how. Nothing has to be: without any setting a broker
serves 127.0.0.1:9092 with its data in `./data`.
Generated: `{COMMAND}`.

## Where settings come from

Each of these overrides those before it:

1. the default;
2. a TOML file: `rpk-py start --config /etc/rpk.toml`, or the one that the variable `RPK_CONFIG`
   names. Its keys are the names below, without sections;
3. variables of the environment: `RPK_` and the name in capitals;
4. `--set NAME=VALUE`, which may be repeated;
5. options of their own: `--data-dir`, `--kafka-addr`, `--advertise-kafka-addr`, `--admin-addr`,
   `--smp`, `--overprovisioned`, `--io-backend`, `--log-level` and `--log-format`.

```toml
# /etc/rpk.toml
data_dir = "/srv/rpk"
kafka_addr = "0.0.0.0:9092"
advertise_kafka_addr = "broker-1.example:9092"
smp = "auto"
cache_bytes = 268_435_456
```

```sh
RPK_LOG_LEVEL=debug rpk-py start --config /etc/rpk.toml --set flush_ms=50
```

`rpk-py start --print-config`, with the same file, variables and options, starts nothing and prints
every setting with its value, where that comes from and what it means. What it prints can be a file
for `--config`.

A value of the wrong type or out of range, and a name that does not exist, end the start with one
line and exit code 1; the line names the setting, its place and what would be right:

```
rpk-py: kafka_port=99999 in /etc/rpk.toml:2 is not valid: must be between 0 and 65535
```

That holds for every variable that begins with `RPK_` too, but for `RPK_CONFIG`, `RPK_BROKERS` (what
client commands connect to) and `RPK_PY_...` (the project's tests). Kubernetes makes such variables
for a service named `rpk`: name it otherwise, or set `enableServiceLinks: false`.

Bytes, milliseconds and seconds are plain numbers; a name says its unit. True and false are `true`
and `false`. What may be unset is unset by an empty variable. A relative `data_dir` is one below
the directory in which the broker is started.

## Host and port as one

An address is a host and a port, each a setting of its own. Every source also takes both as one:

| name | variable | stands for | meaning |
|---|---|---|---|
"""

WHILE_RUNNING = """
## While the broker runs

Kafka's tools show every setting under the name in the column "Kafka's tools", which is Kafka's
own where Kafka has the setting (`kafka-configs.sh --describe --entity-type brokers`). One that is
marked with a star can be changed there without a restart, for all brokers or for one (two stars:
for all only). Such a change is kept in the data directory and wins over everything above until it
is deleted.
"""


def document() -> str:
    """The whole text of docs/CONFIGURATION.md."""
    return INTRODUCTION + "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    for name, address in ADDRESSES.items():
        fields = f"`{address.host}`, `{address.port}`"
        yield f"| `{name}` | `{variable_of(name)}` | {fields} | {address.meaning} |"
    yield ""
    yield "`HOST:PORT`, or `[::1]:PORT` for IPv6. A host alone leaves the port as it is."
    yield from WHILE_RUNNING.splitlines()
    for setting in SETTINGS.values():
        if setting.section is not None:
            yield from ("", f"## {setting.section}", "")
            yield "| setting | variable | default | values | meaning | Kafka's tools |"
            yield "|---|---|---|---|---|---|"
        cells = (
            f"`{setting.name}`",
            f"`{variable_of(setting.name)}`",
            _default(setting),
            _values(setting),
            setting.meaning,
            _public(setting),
        )
        yield f"| {' | '.join(cells)} |"


def _default(setting: Setting) -> str:
    if setting.default is None:
        return "unset"
    text = str(setting.default).lower() if setting.kind == "bool" else str(setting.default)
    size = _size(setting.default) if setting.unit == "bytes" else text
    return f"`{text}`" if size == text else f"`{text}` ({size})"


def _values(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices)
    if setting.low is None:
        return {"bool": "`true`, `false`", "Path": "a directory"}.get(setting.kind, "text")
    if setting.unit == "bytes":
        low, high = _size(setting.low), _size(setting.high)
        return f"{low} to {high}" + ("" if high[-1] == "B" else " bytes")
    auto = ", `auto`" if setting.name == "smp" else ""
    return f"{setting.low} to {setting.high}{auto} {setting.unit}".rstrip()


def _size(count: Any) -> str:
    for size, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count and count % size == 0:
            return f"{count // size} {unit}"
    return str(count)


def _public(setting: Setting) -> str:
    config = BY_SETTING[setting.name]
    star = "" if not config.dynamic else " *" if config.per_node else " **"
    return f"`{config.name}`{star.replace('*', chr(92) + '*')}"


if __name__ == "__main__":
    print(document(), end="")
