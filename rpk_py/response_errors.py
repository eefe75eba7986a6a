"""The error codes in a response of any API.

Which process: a shard. One reader for each message class, made from its schema at first use; a
message without any error code costs a dictionary look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from kafka_protocol.schema import Array, specs_of

_Reader: TypeAlias = Callable[[Any, list[int]], None]


def error_codes(response: Any) -> list[int]:
    """Every error code in it that is not 0, in the order of the wire."""
    found: list[int] = []
    cls: Any = type(response)
    read = _reader(cls)
    if read is not None:
        read(response, found)
    return found


@cache
def _reader(cls: type) -> _Reader | None:
    """Appends the error codes of a message or struct; None where its schema has none."""
    own = any(spec.name == "error_code" for spec in specs_of(cls))
    lists: list[tuple[str, _Reader]] = []
    for spec in specs_of(cls):
        if isinstance(spec.kind, Array) and isinstance(spec.kind.item, type):
            below = _reader(spec.kind.item)
            if below is not None:
                lists.append((spec.name, below))
    if not own and not lists:
        return None

    def read(message: Any, found: list[int]) -> None:
        if own and message.error_code:
            found.append(int(message.error_code))
        for name, below in lists:
            for item in getattr(message, name) or ():
                below(item, found)

    return read
