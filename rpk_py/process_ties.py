"""What ties a process to another one in the kernel: ending with its parent, adopting orphans.

Which process: any, right after it was forked.  Both hold until the process ends; the first is
also kept by a program that it becomes (execve), unless that is set-user-id.
Source: prctl(2), PR_SET_PDEATHSIG and PR_SET_CHILD_SUBREAPER.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent_pid: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal once its parent has ended, however it ends.

    Shapes:  parent_pid  the parent's os.getpid(), taken before the fork
    Raises:  OSError     the kernel refuses it
    """
    if _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        os._exit(0)  # it ended before the prctl; nobody is left to work for


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that it can be waited for.

    Raises: OSError  the kernel refuses it
    """
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
