"""What a flood of log lines is cut to, and what the first line afterwards says."""

from __future__ import annotations

from rpk_py.log_limit import (
    ADDRESS_LINES_MAX,
    DEBUG_TIMES,
    EVENT_LINES_MAX,
    INTERVAL_S,
    KEYS_MAX,
    LogLimit,
)


def test_an_address_may_cause_some_lines_and_then_says_how_many_there_were() -> None:
    limit = LogLimit()
    answers = [limit.admit("bad frame", "192.0.2.1", 100.0) for _ in range(1000)]
    assert answers == [0] * ADDRESS_LINES_MAX + [None] * (1000 - ADDRESS_LINES_MAX)
    assert limit.admit("bad frame", "192.0.2.1", 100.0 + INTERVAL_S - 0.1) is None
    assert limit.admit("bad frame", "192.0.2.1", 100.0 + INTERVAL_S) == 1001 - ADDRESS_LINES_MAX
    assert limit.admit("bad frame", "192.0.2.1", 100.0 + INTERVAL_S) == 0
    assert limit.suppressed == 1001 - ADDRESS_LINES_MAX


def test_one_address_does_not_silence_another_and_one_event_not_another() -> None:
    limit = LogLimit()
    for _ in range(100):
        limit.admit("bad frame", "192.0.2.1", 1.0)
    assert limit.admit("bad frame", "192.0.2.2", 1.0) == 100 - ADDRESS_LINES_MAX
    assert limit.admit("connection refused", "192.0.2.1", 1.0) == 0


def test_all_addresses_together_have_a_limit_too() -> None:
    limit = LogLimit()
    written = [limit.admit("bad frame", f"192.0.2.{n}", 1.0) is not None for n in range(200)]
    assert sum(written) == EVENT_LINES_MAX
    assert limit.admit("bad frame", "192.0.2.250", 1.0 + INTERVAL_S) == 200 - EVENT_LINES_MAX


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    limit = LogLimit()
    for number in range(KEYS_MAX * 2):
        limit.admit("bad frame", str(number), float(number))
    assert len(limit._addresses) == KEYS_MAX


def test_who_debugs_gets_more_of_the_same_but_not_all() -> None:
    limit = LogLimit()
    admitted = [
        limit.admit("connection opened", "192.0.2.1", 1.0, DEBUG_TIMES) is not None
        for _ in range(10 * DEBUG_TIMES * ADDRESS_LINES_MAX)
    ]
    assert sum(admitted) == DEBUG_TIMES * ADDRESS_LINES_MAX
