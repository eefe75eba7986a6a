"""Open files: the limit raised to what the system allows, a warning where that is too low, and what
of it is for segments.

Which process: supervisor, before it forks; shards inherit the limit. Invariants: segments, clients
and a shard's own files are fewer than the limit together, as long as clients are bounded.
"""

from __future__ import annotations

import resource
from collections.abc import Callable

from rpk_py.config import Config

RESERVED_FILES_MAX = 1000  # for partitions that are made while clients hold all others
SEGMENT_FILES_MAX = 100_000  # the kernel takes 2 KiB for each
_OWN_FILES = 64  # of a shard: ring, loop, listener, control socket, standard streams, and room


def last_file_for_clients() -> int:
    """The highest number of a file that a connection may be: a quarter of the limit, or
    RESERVED_FILES_MAX, is kept for partitions. Of this process, as the limit is now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 31
    return soft - 1 - min(soft // 4, RESERVED_FILES_MAX)


def segment_files_max(config: Config) -> int:
    """How many segments a shard keeps open: what the most clients would leave, but for what is
    kept for partitions; at least half of that, the other half is for files that are made or opened
    in passing. Of this process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return SEGMENT_FILES_MAX
    kept = soft - 1 - last_file_for_clients()
    left = soft - config.connections_max - _OWN_FILES - kept
    return min(max(left, kept // 2), SEGMENT_FILES_MAX)


def raise_file_limit(config: Config, partitions: int, on_message: Callable[[str], None]) -> None:
    """Take all file descriptors that the system allows; report it where a shard may need more.

    A segment that is open costs one, a connection another.

    partitions  those of the shard that leads the most, which are there already
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = config.connections_max + partitions + _OWN_FILES
    needed += min(needed // 3, RESERVED_FILES_MAX)
    if hard != resource.RLIM_INFINITY and hard < needed:
        on_message(
            f"a shard may open {hard} files, but connections_max={config.connections_max} and the"
            f" {partitions} partitions of a shard may need {needed}: near it connections are"
            " refused, and segments are closed and opened again as they are used (raise ulimit -n,"
            " or LimitNOFILE of systemd)"
        )
