"""What a row of the table is: bytes that are sent, and what has to come back.

A row is data: its requests are built for a `Target` (topics that exist there, who leads them), its
expectation compares by value and prints as text. Where Apache Kafka answers otherwise and we mean
to differ, deviations.py says so, and why; a replay shows both next to what a broker did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from kafka_protocol.errors import ErrorCode
from kafka_protocol.frame import encode_request
from kafka_protocol.schema import info_of
from tests.hostile.target import DEADLINE_S, Target

CLIENT_ID = "hostile"
FIRST_ID = 1_000  # the correlation id of a row's first request


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that an answer is expected to: how to decode that, and what names it."""

    api_key: int
    version: int
    correlation_id: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What a row puts on a new connection.

    pieces  is sent one after the other, each in a segment of its own
    asked   the requests among it, in order, whose answers can be decoded
    eof     the client then ends its side of the connection: for frames that are cut
    """

    pieces: tuple[bytes, ...]
    asked: tuple[Asked, ...] = ()
    eof: bool = False


Values: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Expect:
    """What has to come back, by default nothing on a connection that lives on.

    answers  of each answer, in order: paths of fields and their values; a value may be a function
             of the target. A path steps through fields and list items: "topics.0.error_code"
    closes   the broker closes the connection after them
    hangs    nothing more comes, not even to what is asked next; only Apache Kafka may do so
    """

    answers: tuple[Values, ...] = ()
    closes: bool = False
    hangs: bool = False

    def __str__(self) -> str:
        words = [describe_values(values) for values in self.answers]
        if self.closes:
            words.append("close")
        if self.hangs:
            words.append("neither an answer nor a close")
        return ", ".join(words) or "no answer"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    name    a clause that says what is hostile, unique in the table
    send    builds the bytes for a target
    expect  what rpk-py does
    source  why: a KIP, a class of Apache Kafka, a page of ours
    nodes   brokers that the row needs
    deadline_s  by which it has come
    """

    name: str
    send: Callable[[Target], Sent]
    expect: Expect
    source: str
    nodes: int = 1
    deadline_s: float = DEADLINE_S


@dataclass(slots=True)
class Observed:
    """What a broker did with a row.

    hung     nothing came in time
    problem  what no row expects: an answer that cannot be decoded, or one to something else
    """

    answers: list[Any] = field(default_factory=list)  # None: of an API that is not decoded here
    closed: bool = False
    hung: bool = False
    problem: str = ""
    took_s: float = 0.0

    def agrees_with(self, expect: Expect, target: Target) -> bool:
        """Whether this is what was expected."""
        return (
            not self.problem
            and self.hung == expect.hangs
            and self.closed == expect.closes
            and len(self.answers) == len(expect.answers)
            and all(
                value_at(answer, path) == (value(target) if callable(value) else value)
                for answer, values in zip(self.answers, expect.answers, strict=True)
                for path, value in values.items()
            )
        )

    def describe(self, expect: Expect) -> str:
        """In the words of an expectation: the fields that it names, and otherwise all errors."""
        words = []
        for i, answer in enumerate(self.answers):
            paths = expect.answers[i] if i < len(expect.answers) else {}
            found = {path: value_at(answer, path) for path in paths}
            if not found and answer is not None:
                found = {"first error": first_error(answer)}
            words.append(describe_values(found))
        if self.problem:
            words.append(self.problem)
        elif self.hung:
            words.append("neither an answer nor a close")
        elif self.closed:
            words.append("close")
        return ", ".join(words) or "no answer"


class Missing:
    """The value of a path that an answer does not have."""

    def __repr__(self) -> str:
        return "missing"


def value_at(message: Any, path: str) -> Any:
    """The value of a field; Missing where there is none. "topics.#" is the length of a list."""
    for step in path.split("."):
        try:
            if step == "#":
                message = len(message)
            elif step.isdigit():
                message = message[int(step)]
            else:
                message = getattr(message, step)
        except (AttributeError, IndexError, TypeError):
            return Missing()
    return message


def first_error(message: Any) -> int:
    """The first error code in an answer that is not 0, else 0."""
    found = re.search(r"error_code=(?:<ErrorCode\.\w+: )?(-?[1-9]\d*)", repr(message))
    return int(found[1]) if found else 0


def describe_values(values: Values) -> str:
    """Fields and values as text; errors by name."""
    if not values:
        return "an answer"
    return " ".join(_describe(path, value) for path, value in values.items())


def _describe(path: str, value: Any) -> str:
    if callable(value):
        value = getattr(value, "__name__", "?")
    elif path.endswith("error_code") or path == "first error":
        try:
            value = ErrorCode(value).name
        except ValueError:
            pass
    return f"{path}={value}"


# -- builders ------------------------------------------------------------------------------------


def ask(request: Any, version: int, *, answered: bool = True, client_id: Any = CLIENT_ID) -> Sent:
    """One request, encoded as a client does."""
    return ask_all([(request, version)], answered=answered, client_id=client_id)


def ask_all(
    requests: Sequence[tuple[Any, int]], *, answered: bool = True, client_id: Any = CLIENT_ID
) -> Sent:
    """Requests in one segment."""
    frames, asked = [], []
    for correlation_id, (request, version) in enumerate(requests, FIRST_ID):
        frames.append(encode_request(request, version, correlation_id, client_id))
        asked.append(Asked(info_of(type(request)).api_key, version, correlation_id))
    return Sent((b"".join(frames),), tuple(asked) if answered else ())


def asks(
    build: Callable[[Target], Any], version: int, *, answered: bool = True
) -> Callable[[Target], Sent]:
    """For a row: the request that `build` makes for the target."""
    return lambda target: ask(build(target), version, answered=answered)


def raw(*pieces: bytes, eof: bool = False) -> Callable[[Target], Sent]:
    """For a row: these bytes, whatever they are."""
    return lambda _target: Sent(pieces, eof=eof)


def answer(path: str = "", value: Any = 0, **more: Any) -> Expect:
    """One answer with this value in a field (none: any answer)."""
    return Expect(({path: value, **more} if path else dict(more),))


CLOSE = Expect(closes=True)
NO_ANSWER = Expect()
HANG = Expect(hangs=True)
