"""The logger: one event a line, whatever is in it, and a level that changes under it."""

from __future__ import annotations

import asyncio
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpk_py.config import Config
from rpk_py.log_setup import (
    CHARS_MAX,
    TRACEBACK_CHARS_MAX,
    Log,
    log_loop_problems,
    make_logger,
)

HOSTILE = [
    '\n{"level": "error", "message": "forged"}\n',
    "\r\x1b[2J\x1b[31mred\x07",
    "\u2028\u2029\x85\x0b\x0c\x1c",  # what str.splitlines takes for the end of a line
    "\u202eright to left",
    "\ud800",
    "x" * 32_000,
    "\x00" * 32_000,
    "a=b 'c' \"d\" \\",
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def logger(form: str, stream: io.StringIO, level: str = "info") -> Log:
    return make_logger(Config(log_format=form, log_level=level), stream, shard=3)


def failed(text: str) -> Exception:
    """An exception as it is when it is handled."""
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("form", ["json", "console"])
def test_no_fact_and_no_exception_makes_a_second_line_or_a_long_one(form: str, text: str) -> None:
    out = io.StringIO()
    log = logger(form, out)
    log.warning(
        "the client broke the protocol",
        client_id=text,
        names=[text],
        raw=text.encode("utf-16", "surrogatepass"),
    )
    log.error("request failed", exc_info=failed(text))
    log.report("a torn tail is cut", text)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 6 * (3 * CHARS_MAX + TRACEBACK_CHARS_MAX)
    assert max(len(lines[0]), len(lines[2])) < 6 * 3 * CHARS_MAX + 1000
    out.getvalue().encode()  # as any stream will


@given(st.text(), st.sampled_from(["json", "console"]))
def test_any_text_stays_on_its_line(text: str, form: str) -> None:
    out = io.StringIO()
    logger(form, out).warning("the client broke the protocol", client_id=text)
    assert out.getvalue().endswith("\n")
    assert len(out.getvalue().splitlines()) == 1
    if form == "json":
        assert json.loads(out.getvalue())["client_id"] == text[:CHARS_MAX]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_traceback_on_a_terminal_has_lines_but_commands_nothing(text: str) -> None:
    out = Terminal()
    logger("auto", out).error("request failed", exc_info=failed(text))
    lines = out.getvalue().split("\n")
    assert len(lines) > 3
    assert all(line.isprintable() for line in lines[1:])
    assert "\x1b[2J" not in lines[0]


def test_a_json_line_has_the_name_the_facts_and_who_says_it() -> None:
    out = io.StringIO()
    logger("json", out).info("stopped", pid=7, why=None, addresses=["a:1"], late=1.5)
    line = json.loads(out.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "message": "stopped",
        "level": "info",
        "shard": 3,
        "pid": 7,
        "why": None,
        "addresses": ["a:1"],
        "late": 1.5,
    }


def test_the_level_holds_from_the_next_event_on_and_the_change_is_said() -> None:
    out = io.StringIO()
    log = logger("json", out)

    def spoken() -> list[str]:
        out.truncate(0)
        out.seek(0)
        for level in ("debug", "info", "warning", "error"):
            getattr(log, level)(level)
        log.exception("exception")
        return [json.loads(line)["message"] for line in out.getvalue().splitlines()]

    every = ["debug", "info", "warning", "error", "exception"]
    assert (spoken(), log.debugs) == (every[1:], False)
    for level, said, heard in (
        ("debug", 1, every),
        ("debug", 0, every),
        ("error", 1, every[3:]),
        ("critical", 0, []),
        ("warning", 0, every[2:]),
        ("info", 1, every[1:]),
    ):
        before, length = log.level, len(out.getvalue())
        log.set_level(level)
        lines = [json.loads(line) for line in out.getvalue()[length:].splitlines()]
        assert len(lines) == said
        assert all((line["before"], line["log_level"]) == (before, level) for line in lines)
        assert (spoken(), log.debugs) == (heard, level == "debug")


def test_what_the_loop_complains_of_is_an_event() -> None:
    out = io.StringIO()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        log_loop_problems(loop, logger("json", out))
        loop.call_soon(lambda: 1 // 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(scenario())
    line = json.loads(out.getvalue())
    assert line["message"] == "the event loop has a problem"
    assert "ZeroDivisionError" in line["exception"]
    assert "Exception in callback" in line["detail"]


def test_a_stream_that_fails_stops_nobody() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    logger("json", Full()).error("request failed", exc_info=failed("x"))
