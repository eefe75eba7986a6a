"""Structured logs: one logger a process, built from the configuration, without module-level state.

Which process: supervisor and shards (a forked shard binds its node id).  Output: standard error,
one event a line, as JSON or, on a terminal, readable.  structlog is imported here only.
Invariants: an event has a name that never changes and facts in keys; docs/LOGS.md has all of them.
No fact, whoever made it up, begins a line of its own or makes one long: texts are escaped and cut.
A traceback has several lines on a terminal, and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any, Final, TextIO

import structlog

from rpk_py.config import Config

CHARS_MAX: Final = 1000  # of one fact
TRACEBACK_CHARS_MAX: Final = 16_000


def resolve_format(log_format: str, stream: TextIO) -> str:
    """What "auto" means: console on a terminal, json elsewhere."""
    if log_format != "auto":
        return log_format
    return "console" if stream.isatty() else "json"


class Log:
    """A process's logger: log.info("what happened", key=value). The level may change any time.

    `debugs`: whether debug events are written; ask before collecting facts for one.
    """

    __slots__ = ("_least", "_logger", "debugs", "level")

    def __init__(self, logger: Any, level: str) -> None:
        self._logger = logger
        self._take(level)

    def _take(self, level: str) -> None:
        self.level = level
        self._least = logging.getLevelNamesMapping()[level.upper()]
        self.debugs = self._least <= logging.DEBUG

    def set_level(self, level: str) -> None:
        """From the next event on. Says so, if the level before or the new one lets it."""
        before = self.level
        if level == before:
            return
        if self._least > logging.INFO:
            self._take(level)
        self.info("the log level was changed", log_level=level, before=before)
        self._take(level)

    def debug(self, event: str, **facts: Any) -> None:
        """For whoever looks into what a client or a shard does."""
        if self._least <= logging.DEBUG:
            self._logger.debug(event, **facts)

    def info(self, event: str, **facts: Any) -> None:
        """Something that is as it should be."""
        if self._least <= logging.INFO:
            self._logger.info(event, **facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Something is lost or refused, and the broker goes on."""
        if self._least <= logging.WARNING:
            self._logger.warning(event, **facts)

    def report(self, event: str, detail: str) -> None:
        """A warning from a layer that knows no logger: a name and a sentence."""
        self.warning(event, detail=detail)

    def error(self, event: str, **facts: Any) -> None:
        """Something does not work and an operator should look."""
        if self._least <= logging.ERROR:
            self._logger.error(event, **facts)

    def exception(self, event: str, **facts: Any) -> None:
        """An error, with the exception that is being handled."""
        self.error(event, exc_info=True, **facts)


class _Unfailing:
    """A stream whose writes are lost where they fail.

    The log is often on the disk that the data is on. Were a full one to raise here, it would do so
    in the middle of taking a partition offline, and the producers would never be answered.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except OSError:
            pass

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            pass


def make_logger(config: Config, stream: TextIO | None = None, **bind: Any) -> Log:
    """A logger with the configured level and form; `bind` is part of every event.

    Shapes:  stream  None: standard error; console colours only if that is a terminal
    """
    out = sys.stderr if stream is None else stream
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _shorten,
    ]
    if resolve_format(config.log_format, out) == "json":
        processors += [
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    else:
        processors += [
            _escape_lines if out.isatty() else _without_lines,
            structlog.dev.ConsoleRenderer(
                colors=out.isatty(),
                repr_native_str=True,  # what is not printable is escaped
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    logger = structlog.wrap_logger(
        structlog.WriteLogger(_Unfailing(out)),  # type: ignore[arg-type]
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),  # Log filters
        context_class=dict,
        **bind,
    ).bind()
    return Log(logger, config.log_level)


def log_loop_problems(loop: asyncio.AbstractEventLoop, log: Log) -> None:
    """Have what the event loop complains of logged like everything else."""

    def complain(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        log.error(
            "the event loop has a problem",
            detail=context["message"],
            exc_info=context.get("exception"),
        )

    loop.set_exception_handler(complain)


# structlog's processors: (logger, name of the method, event) -> event


def _shorten(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Cut what is long: at its end, a traceback in its middle."""
    for key, value in event.items():
        if key == "exception":
            event[key] = _cut_middle(value)
        elif isinstance(value, str):
            event[key] = _cut(value)
        elif value is not None and not isinstance(value, int | float):
            text = repr(value)
            event[key] = value if len(text) <= CHARS_MAX else _cut(text)
    return event


def _cut(text: str) -> str:
    more = len(text) - CHARS_MAX
    return text if more <= 0 else f"{text[:CHARS_MAX]}... ({more} more characters)"


def _cut_middle(text: str) -> str:
    more, half = len(text) - TRACEBACK_CHARS_MAX, TRACEBACK_CHARS_MAX // 2
    return text if more <= 0 else f"{text[:half]}... ({more} characters) ...{text[-half:]}"


def _escape_lines(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """For a terminal: a traceback keeps its lines, but nothing in it commands the terminal."""
    event["event"] = _printable(event["event"])
    if "exception" in event:
        event["exception"] = "\n".join(map(_printable, event["exception"].split("\n")))
    return event


def _without_lines(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """For a file: a traceback is a fact like any other."""
    event["event"] = _printable(event["event"])
    if "exception" in event:
        event["traceback"] = event.pop("exception")
    return event


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]
