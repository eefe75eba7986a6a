"""Forking a shard, and what the child does before its own code runs.

Which process: `fork_shard` runs in the supervisor at a moment without threads, without an open
database and, at start, without a loop; the child then drops everything that belongs to the
supervisor.  Invariants: a shard never outlives its supervisor (PR_SET_PDEATHSIG); it holds no
file descriptor but its listener, its control socket, the data directory's lock and the standard
ones; it ends with os._exit, so no clean-up of the supervisor's objects runs twice.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from rpk_py.config import Config
from rpk_py.process_ties import die_with_parent

# The shard cannot run at all with this configuration: the broker stops instead of restarting it.
FATAL_EXIT = 78
CRASH_EXIT = 70
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)  # by the supervisor's loop

# run(config, shard_index, node_id, listener, control, others_run) -> exit code
ShardEntry: TypeAlias = Callable[[Config, int, int, socket.socket, socket.socket, bool], int]


def fork_shard(
    entry: ShardEntry,
    config: Config,
    shard_index: int,
    listener: socket.socket,
    lock_fd: int,
    core: int | None,
    others_run: bool,
    log: Any,
) -> tuple[int, socket.socket]:
    """Start one shard process; `others_run`: the journals of the others are in use.

    Returns: (pid, the supervisor's end of the control socketpair)
    Raises:  OSError  the process could not be created
    """
    assert threading.active_count() == 1
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    supervisor_pid = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    # Until the child has let go of them, the supervisor's handlers are its own: what it was sent
    # would wake the supervisor's loop, by the socket that both share, to act on it.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        ours.close()
        theirs.close()
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        theirs.close()
        ours.setblocking(False)
        return pid, ours
    code = CRASH_EXIT
    try:
        _leave_supervisor(supervisor_pid, [listener.fileno(), theirs.fileno(), lock_fd], core)
        node_id = config.node_id(shard_index)
        code = entry(config, shard_index, node_id, listener, theirs, others_run)
    except BaseException:
        log.exception("a shard failed", node_id=config.node_id(shard_index))
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _leave_supervisor(supervisor_pid: int, keep: list[int], core: int | None) -> None:
    die_with_parent(supervisor_pid)
    # Both are the supervisor's to act on: a terminal's Ctrl-C and an init system that signals
    # the whole group reach the shards too, and would cut short the graceful stop.
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
    # A restarted shard is forked inside a callback of the supervisor's loop, which is not ours.
    asyncio._set_running_loop(None)
    asyncio.set_event_loop(None)
    _close_others({0, 1, 2, *keep})
    if core is not None:
        os.sched_setaffinity(0, {core})


def _close_others(keep: set[int]) -> None:
    """Close every descriptor that is not ours: other shards' listeners and control sockets, the
    supervisor's loop.  At the level of the system: their Python objects stay, unused."""
    try:
        open_fds = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # a bare chroot has no /proc
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        for below, above in itertools.pairwise([-1, *sorted(keep), limit]):
            if below + 1 < above:  # CPython takes an empty range for one without an end
                os.closerange(below + 1, above)
        return
    for fd in open_fds:
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the descriptor of the listing itself
