"""`rpk-py completion`: the script that makes a shell complete commands, options and topics.

Which process: the operator's. The script asks `rpk-py` itself, with variables that click defines.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from rpk_py.cli.output import print_text


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options and the names of topics.

    Topics are those of the broker that --brokers on the line or RPK_BROKERS names, if it answers
    in a moment.

    \b
    Example:  rpk-py completion bash > ~/.local/share/bash-completion/completions/rpk-py
              rpk-py completion zsh > "${fpath[1]}/_rpk-py"
              rpk-py completion fish > ~/.config/fish/completions/rpk-py.fish

    Exit code: 0 printed.
    """
    found = get_completion_class(shell)
    assert found is not None  # click has all three
    print_text(found(ctx.find_root().command, {}, "rpk-py", "_RPK_PY_COMPLETE").source())
