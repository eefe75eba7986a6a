"""The error codes in a response of any API.

Which process: a shard. One reader for each message class, made from its schema at first use; a
message without any error code costs a dictionary look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeAlias

from kafka_protocol.errors import ErrorCode
from kafka_protocol.schema import Array, specs_of
from kafka_protocol.wire import NO_UUID

LOCATED_CHARS_MAX: Final = 100  # of a name that leads to an error
# The fields that say what an error is about.
_NAMING: Final = ("name", "topic", "resource_name", "index", "partition_index", "partition")
_NAMING_BY_ID: Final = ("topic_id", *_NAMING)

_Reader: TypeAlias = Callable[[Any, list[int]], None]


def error_codes(response: Any) -> list[int]:
    """Every error code in it that is not 0, in the order of the wire."""
    found: list[int] = []
    cls: Any = type(response)
    read = _reader(cls)
    if read is not None:
        read(response, found)
    return found


def located_errors(response: Any, count_max: int) -> list[str]:
    """The first error codes by name, each with the names that lead to it: "orders 3 NOT_LEADER".

    Slow: for who debugs.
    """
    found: list[str] = []
    _locate(response, (), found, count_max)
    return found


def _locate(item: Any, names: tuple[str, ...], found: list[str], count_max: int) -> None:
    fields = _NAMING if getattr(item, "name", "") or getattr(item, "topic", "") else _NAMING_BY_ID
    for value in (getattr(item, field, None) for field in fields):
        if value not in (None, "", NO_UUID):
            text = value.hex() if isinstance(value, bytes) else str(value)
            names = *names, text[:LOCATED_CHARS_MAX]
    code = getattr(item, "error_code", 0)
    if code and len(found) < count_max:
        known = code in ErrorCode._value2member_map_
        found.append(" ".join((*names, ErrorCode(code).name if known else str(code))))
    for spec in specs_of(type(item)):
        if isinstance(spec.kind, Array) and isinstance(spec.kind.item, type):
            if _reader(spec.kind.item) is None:
                continue
            for below in getattr(item, spec.name) or ():
                if len(found) >= count_max:
                    return
                _locate(below, names, found, count_max)


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
