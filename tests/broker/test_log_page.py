"""docs/LOGS.md and the code know the same events."""

from __future__ import annotations

import ast

import pytest

from tests.broker import log_page


def known() -> list[str]:
    """Every event that the page explains."""
    return [name for group in log_page.EVENTS.values() for name in group]


def test_every_event_of_the_code_is_on_the_page_and_no_other() -> None:
    events, unnamed = log_page.logged(log_page.sources())
    assert unnamed == []
    missing = {name: event.places for name, event in events.items() if name not in known()}
    assert missing == {}
    assert [name for name in known() if name not in events] == []
    assert len(set(known())) == len(known())


def test_the_page_is_what_the_code_says() -> None:
    written = log_page.PAGE.read_text(encoding="utf-8")
    assert written == log_page.document(), f"stale, run: {log_page.COMMAND}"


@pytest.mark.parametrize(
    ("code", "event", "levels", "keys"),
    [
        ("self._log.error('a', reason=1, exc_info=e)", "a", {"error"}, {"reason", "exception"}),
        ("log.exception('a')", "a", {"error"}, {"exception"}),
        ("partial(log.report, 'a')", "a", {"warning"}, {"detail"}),
        ("self._context.report('a', text)", "a", {"warning"}, {"detail"}),
        (
            "ctx.broker.warn_of(ctx.peer, 'a', reason=1)",
            "a",
            {"warning"},
            {"peer", "suppressed", "reason"},
        ),
        (
            "connection.client.debug('a')",
            "a",
            {"debug"},
            {"client_id", "peer", "software", "suppressed"},
        ),
    ],
)
def test_a_call_tells_name_level_and_keys(
    code: str, event: str, levels: set[str], keys: set[str]
) -> None:
    events, unnamed = log_page.logged([("module.py", ast.parse(code))])
    assert unnamed == []
    assert list(events) == [event]
    assert (events[event].levels, events[event].keys) == (levels, keys)


@pytest.mark.parametrize(
    "code",
    ["log.warning(f'{name} is offline')", "context.report(text, text)", "partial(log.report, x)"],
)
def test_an_event_without_a_constant_name_is_found(code: str) -> None:
    assert log_page.logged([("module.py", ast.parse(code))]) == ({}, ["module.py:1"])
