"""docs/CLI.md, its reference made from the commands themselves.

    python -m tests.cli.page > docs/CLI.md

Not a test: `test_page.py` holds the page to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from rpk_py.cli import root

PAGE = Path(__file__).resolve().parents[2] / "docs" / "CLI.md"
COMMAND = "python -m tests.cli.page > docs/CLI.md"
COLUMNS = 96

INTRODUCTION = f"""\
# Command line

`rpk-py` starts brokers, and speaks to brokers: to rpk-py and to any other that speaks Kafka's
protocol. Names of commands, options and columns are those of Redpanda's `rpk` where it has them.
Generated: `{COMMAND}`.

```sh
rpk-py topic create orders -p 6
rpk-py topic describe orders --print-partitions
rpk-py cluster health
```

## Which broker

`--brokers HOST:PORT,...` (`-b`) names brokers of the cluster; the first that answers is used, and
the others are found by it. The port is 9092 if it is left out; an IPv6 address stands in brackets.
The option may stand behind the command or before it: `rpk-py -b db1:9092 topic list`. Without it
the variable `RPK_BROKERS` counts, and then `127.0.0.1:9092`.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | refused or failed; of several things at least one |
| 2 | wrong usage: nothing was done |
| 3 | no broker answers, or what answers is none |
| 130 | interrupted |

`cluster health` also ends with 1 when the cluster is not healthy. `run`, `durability` and `debug`
have codes of their own, told below. A command that takes several names does what it can: it tells
the result of each and ends with 1 if one failed.

## Output

Data goes to standard output; questions, notes and errors go to standard error, each error one line
that begins with `rpk-py: `. Nothing is shortened, and control characters that a broker sends are
escaped.

`--format json` prints one JSON document of ASCII characters with an indent of two. Keys are in
snake_case, what is not there is `null`, and keys are only ever added. The help of each command
tells the shape, where {{a, b}} is an object with these keys. An `error` or a failed `status` begins
with the name of Kafka's error code:

```sh
rpk-py topic delete -r 'test-.*' --format json | jq -r '.[] | select(.status != "OK").topic'
```

## Completion

`rpk-py completion bash`, `zsh` or `fish` prints a script that completes commands, options and the
names of topics; its help says where to put it. Topics are asked of the broker, and if it does not
answer in a moment there are none.

## Beside rpk

- `-b` is `--brokers`, so `cluster info` has only the long `--print-brokers`.
- `topic describe` prints the sections that were asked for, of several topics too.
- `topic trim-prefix` does nothing where there is no terminal to confirm on, without `--no-confirm`.
- `cluster health` asks Metadata and DescribeLogDirs of every node and no HTTP interface, `cluster
  config` Kafka's configs of brokers; so both work with Apache Kafka.
- Left out is what Kafka's protocol does not have: `cluster config edit`, `import`, `export`, `lint`
  and maintenance mode.

## Reference
"""


def document() -> str:
    """The whole text of docs/CLI.md."""
    parts = [INTRODUCTION]
    for path, command in commands():
        if isinstance(command, click.Group):
            continue
        context = click.Context(
            command,
            info_name=path,
            terminal_width=COLUMNS,
            max_content_width=COLUMNS,
            help_option_names=["-h", "--help"],
        )
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        parts.append(f"### {path}\n\n```\n{text}\n```\n")
    return "\n".join(parts)


def commands(
    group: click.Group = root, path: str = "rpk-py"
) -> Iterator[tuple[str, click.Command]]:
    """Every command and group below a group, with the words that call it."""
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


if __name__ == "__main__":
    print(document(), end="")
