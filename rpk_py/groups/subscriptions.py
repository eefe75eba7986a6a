"""Subscriptions by a regular expression: which topics match (KIP-848).

What:       patterns in the syntax of RE2, as Apache Kafka's (RE2J), matched against whole names.
Where:      the coordinator of the group. RE2 takes time linear in its input, so that no pattern of
            a client can hold the loop; Python's own engine might take for ever. It is imported
            with the first pattern.
Invariants: a pattern uses at most MEMORY_BYTES_MAX.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from rpk_py.metadata.state import ClusterState

MEMORY_BYTES_MAX: Final = 1024 * 1024
CHARACTERS_MAX: Final = 1000


class Patterns:
    """The patterns of one group, and what they matched at the last look."""

    __slots__ = ("_compiled", "_matched")

    def __init__(self) -> None:
        self._compiled: dict[str, Any] = {}
        self._matched: dict[str, frozenset[str]] = {}

    def problem(self, pattern: str) -> str | None:
        """What is wrong with a pattern, or None. Who asks may be refused: nothing is kept."""
        try:
            self._compiled.get(pattern) or _compiled(pattern)
        except ValueError as error:
            return str(error)
        return None

    def match(self, patterns: Iterable[str | None], state: ClusterState) -> None:
        """Look which topics match; others than these patterns are forgotten."""
        wanted = {pattern for pattern in patterns if pattern is not None}
        names = [topic.name for topic in state.topics.values() if not topic.internal]
        self._matched = {
            pattern: frozenset(filter(self._compile(pattern).fullmatch, names))
            for pattern in wanted
        }
        self._compiled = {pattern: self._compiled[pattern] for pattern in wanted}

    def matched(self, pattern: str) -> frozenset[str]:
        """The names that matched at the last look."""
        return self._matched.get(pattern, frozenset())

    def _compile(self, pattern: str) -> Any:
        compiled = self._compiled.get(pattern)
        if compiled is None:
            compiled = self._compiled[pattern] = _compiled(pattern)
        return compiled


def _compiled(pattern: str) -> Any:
    import re2  # type: ignore[import-untyped]

    if len(pattern) > CHARACTERS_MAX:
        raise ValueError(f"it has more than {CHARACTERS_MAX} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MEMORY_BYTES_MAX
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        (text,) = error.args
        raise ValueError(text.decode() if isinstance(text, bytes) else text) from error
