"""Where cluster metadata is kept: the seam between the controller and a database.

Which process: supervisor.  Methods block; the controller calls them from its commit thread, one
at a time.  Invariants: a commit is durable when `commit` returns, whole or not at all, and only
on top of the revision right below it, so two controllers can never both succeed.
"""

from __future__ import annotations

from typing import Protocol

from rpk_py.metadata.state import ClusterState, Delta


class StoreError(Exception):
    """The store cannot be used or refused a commit; the message says what to do about it."""


class MetadataStore(Protocol):
    """One implementation now (SQLite on this host); a cluster of hosts needs a second."""

    def open(self) -> None:
        """Connect; creates what is missing.  Raises StoreError."""

    def close(self) -> None:
        """Disconnect; `open` may follow.  Does nothing when closed."""

    def load(self) -> ClusterState:
        """The state as of the last commit; without nodes, which are not stored."""

    def commit(self, delta: Delta) -> None:
        """Persist one delta on top of revision delta.revision - 1.

        Raises: StoreError  all of the delta may be stored, or nothing: `load` tells, after the
                store was closed and opened
        """

    def allocate_producer_ids(self, count: int) -> int:
        """The first of `count` producer ids that were never given out before.

        Raises: StoreError  nothing was allocated
        """
