"""Start a command on a kernel that refuses some system calls, by a seccomp filter.

    python -m tests.machines.refuse io_uring_setup=EPERM O_DIRECT=EINVAL -- rpk-py start ...

Each refused call returns the given errno and has no effect, as on an older kernel, in a container
or under gVisor. The filter is inherited by everything that the command starts. No root needed.

O_DIRECT is no call: the openat that asks for it is refused. DIOALIGN is part of statx's answer,
so statx as a whole is refused.

Source: seccomp(2), the kernel's filter.h and audit.h; numbers of system calls by architecture.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Mapping, Sequence

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_LOAD_WORD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _OPENAT_FLAGS_AT = 0, 4, 16 + 2 * 8  # in struct seccomp_data

# machine -> (audit's name of the architecture, system call -> number)
_MACHINES: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "fdatasync": 75,
            "sched_setaffinity": 203,
            "openat": 257,
            "fallocate": 285,
            "eventfd2": 290,
            "pwritev2": 328,
            "statx": 332,
            "io_uring_setup": 425,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "eventfd2": 19,
            "fallocate": 47,
            "openat": 56,
            "fdatasync": 83,
            "sched_setaffinity": 122,
            "pwritev2": 287,
            "statx": 291,
            "io_uring_setup": 425,
        },
    ),
}


def is_possible() -> bool:
    """Whether the numbers of this machine's system calls are known."""
    return sys.platform == "linux" and platform.machine() in _MACHINES


def refuse(calls: Mapping[str, int]) -> None:
    """From now on, and in all children, these calls fail with these errnos.

    Shapes:  calls  name of a system call, or O_DIRECT, -> errno
    Raises:  KeyError for a call that is not in the table, OSError where the filter is refused
    """
    architecture, numbers = _MACHINES[platform.machine()]
    program = [
        _step(_LOAD_WORD, _ARCHITECTURE_AT),
        _step(_JUMP_EQUAL, architecture, if_not=_return_after(calls)),
        _step(_LOAD_WORD, _NUMBER_AT),
    ]
    for name, code in calls.items():
        if name != "O_DIRECT":
            program += [_step(_JUMP_EQUAL, numbers[name], if_not=1), _step(_RETURN, _ERRNO | code)]
    if "O_DIRECT" in calls:
        program += [
            _step(_JUMP_EQUAL, numbers["openat"], if_not=3),
            _step(_LOAD_WORD, _OPENAT_FLAGS_AT),
            _step(_JUMP_ANY_BIT, os.O_DIRECT, if_not=1),
            _step(_RETURN, _ERRNO | calls["O_DIRECT"]),
        ]
    program.append(_step(_RETURN, _ALLOW))
    _install(b"".join(program), len(program))


def _return_after(calls: Mapping[str, int]) -> int:
    """Steps from the check of the architecture to the last one, which allows."""
    direct = 4 if "O_DIRECT" in calls else 0
    return 1 + 2 * sum(name != "O_DIRECT" for name in calls) + direct


def _step(code: int, value: int, if_not: int = 0) -> bytes:
    """struct sock_filter; a jump goes on with the next step if true, else `if_not` further."""
    return struct.pack("=HBBI", code, 0, if_not, value)


def _install(program: bytes, steps: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    memory = ctypes.create_string_buffer(program)
    filter_program = struct.pack("@HP", steps, ctypes.addressof(memory))  # struct sock_fprog
    arguments = ctypes.create_string_buffer(filter_program)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _MODE_FILTER, arguments, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the seccomp filter is refused")


def main(arguments: Sequence[str]) -> None:
    """CALL=ERRNO ... -- COMMAND ...: becomes the command."""
    end = arguments.index("--")
    pairs = (argument.split("=", 1) for argument in arguments[:end])
    refuse({name: getattr(errno, code) for name, code in pairs})
    command = arguments[end + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
