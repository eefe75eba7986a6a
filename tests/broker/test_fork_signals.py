"""A signal that reaches a shard right after its fork is not taken for one of the supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
# A process that handles signals as the supervisor does forks a shard that gets one at once.
SCRIPT = """
import asyncio, os, signal, socket, sys
from pathlib import Path
from rpk_py.config import Config
from rpk_py.shard_process import fork_shard

number = int(sys.argv[1])

def entry(config, shard_index, node_id, listener, control, others_run):
    return 0 if signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set() else 1

async def main():
    loop = asyncio.get_running_loop()
    heard = []
    for handled in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        loop.add_signal_handler(handled, heard.append, handled)
    os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), number))
    lock_fd = os.open("/dev/null", os.O_RDONLY)
    with socket.socket() as listener:
        config = Config(data_dir=Path("/data"))
        pid, control = fork_shard(entry, config, 0, listener, lock_fd, None, False, None)
    reader, writer = await asyncio.open_unix_connection(sock=control)
    await reader.read()  # until the child is gone
    while signal.SIGCHLD not in heard:
        await asyncio.sleep(0.001)
    _, status = os.waitpid(pid, 0)
    writer.close()
    print(os.waitstatus_to_exitcode(status), set(map(int, heard)) == {signal.SIGCHLD})

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_the_child_gets_at_once_is_the_childs_alone(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(int(number))],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=20,
    )
    assert done.stdout == "0 True\n", done.stderr
