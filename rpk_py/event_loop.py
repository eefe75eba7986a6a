"""The event loop of a shard: uvloop, or asyncio's own where uvloop does not run.

Which process: each shard, after the fork; imported in the supervisor, so that the shards share its
memory. The only importer of uvloop, whose libuv needs eventfd, which some sandboxes refuse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def _why_not_installed() -> str | None:
    try:
        import uvloop  # noqa: F401
    except ImportError as error:  # no wheel for this machine
        return f"it is not installed ({error}); pip install uvloop"
    return None


_MISSING = _why_not_installed()


def new_event_loop(on_message: Callable[[str], None]) -> asyncio.AbstractEventLoop:
    """The fastest loop that works here; `on_message` is told what was lost, and what it costs."""
    reason = _MISSING
    if reason is None:
        import uvloop

        try:
            return uvloop.new_event_loop()
        except (OSError, RuntimeError) as error:
            reason = f"it cannot make a loop here ({error})"
    on_message(
        f"the event loop is asyncio's and not uvloop because {reason}: the same results, but more"
        " CPU a request"
    )
    return asyncio.new_event_loop()
