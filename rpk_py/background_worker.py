"""The process that a shard has do what takes long, with an interpreter of its own.

`python -m rpk_py.background_worker LOCK PARENT`, started by background_process.py. Requests come on
standard input and answers leave on standard output, each a length (u64, big-endian) and a pickle:

    request   (work, job, bytes per second)    work: a function of a module, see storage.background
    answer    (True, what it returned) or (False, what it raised)

It does one piece at a time, and only while it holds the lock on the file LOCK: so of all shards of
a broker one rewrites at a time. It gives way to everybody (nice 19), runs on any core, and ends at
the end of its input, or with its parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import struct
import sys
from typing import Any, BinaryIO

from rpk_py.process_ties import die_with_parent
from storage.background import Pace
from storage.errors import StorageError

LENGTH = struct.Struct(">Q")


def main(lock_path: str, parent_pid: int) -> None:
    """Serve until the input ends."""
    die_with_parent(parent_pid)
    os.nice(19)
    with contextlib.suppress(OSError):  # where that is refused it shares the shard's core
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints is no answer
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    while head := requests.read(LENGTH.size):
        work, job, bytes_per_s = pickle.loads(requests.read(LENGTH.unpack(head)[0]))
        fcntl.flock(lock, fcntl.LOCK_EX)
        _send(answers, _answer(work, job, bytes_per_s))
        fcntl.flock(lock, fcntl.LOCK_UN)


def _answer(work: Any, job: Any, bytes_per_s: float) -> tuple[bool, Any]:
    try:
        return True, work(job, Pace(bytes_per_s))
    except (StorageError, OSError) as error:
        return False, error
    except Exception as error:  # a bug: the shard tells it, this process goes on
        return False, StorageError(f"unexpected: {error!r}")


def _send(answers: BinaryIO, answer: tuple[bool, Any]) -> None:
    data = pickle.dumps(answer)
    answers.write(LENGTH.pack(len(data)) + data)
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
