"""Producer ids for one shard, handed out from blocks that the controller allocates.

What:       `next_id` gives the next id of the shard's current block at once, None when it is used
            up; `reserve` then waits for a further block. One request is under way at a time,
            shared by everybody who waits, so a thousand producers that start together cost one.
Where:      one object a shard, used by handlers/init_producer_id.py alone. On the shard's loop.
Invariants: an id is given out at most once in the life of the cluster: blocks never overlap (the
            controller commits a block before it answers), and what is left of a block when the
            shard stops is never used again.
Source:     KIP-730, producer id blocks.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class BlockSource(Protocol):
    """What this module needs of rpk_py.metadata.replica.MetadataReplica."""

    async def allocate_producer_ids(self) -> tuple[int, int]:
        """(first id, count) of a new block, count > 0; raises when the controller cannot."""
        ...


class ProducerIds:
    """Hands out producer ids. Usage: `while (i := ids.next_id()) is None: await ids.reserve()`."""

    __slots__ = ("_end", "_next", "_outcome", "_source")

    def __init__(self, source: BlockSource) -> None:
        self._source = source
        self._next = 0
        self._end = 0  # exclusive
        # Resolves with None, or with the error of the request under way, for those who share it.
        self._outcome: asyncio.Future[Exception | None] | None = None

    def next_id(self) -> int | None:
        """The next id, or None when the block is used up (call `reserve`, then ask again)."""
        if self._next == self._end:
            return None
        self._next += 1
        return self._next - 1

    async def reserve(self) -> None:
        """Wait for a further block, or for somebody else's request for one.

        Returns without an id on purpose: after a wait others may have taken the whole block.
        Raises:  what the controller's request raised, to everybody who shared it.
        """
        if self._next < self._end:
            return
        if self._outcome is not None:
            error = await asyncio.shield(self._outcome)
            if error is not None:
                raise error
            return
        outcome = self._outcome = asyncio.get_running_loop().create_future()
        error = None
        try:
            first, count = await self._source.allocate_producer_ids()
            assert first >= 0
            assert count > 0
            self._next, self._end = first, first + count
        except Exception as caught:
            error = caught
            raise
        finally:
            # Also when cancelled (this client left): the others then find no id and ask anew.
            self._outcome = None
            outcome.set_result(error)
