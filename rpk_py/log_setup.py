"""Structured logs: one logger, built from the configuration, without module-level state.

Which process: supervisor and shards (a forked shard binds its node id).  Output: standard error,
one line an event, as JSON or, on a terminal, readable.  structlog is imported here only.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import structlog

from rpk_py.config import Config


def resolve_format(log_format: str, stream: TextIO) -> str:
    """What "auto" means: console on a terminal, json elsewhere."""
    if log_format != "auto":
        return log_format
    return "console" if stream.isatty() else "json"


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


def make_logger(config: Config, stream: TextIO | None = None, **bind: Any) -> Any:
    """A logger with the configured level and form; `bind` is part of every event.

    Shapes:  stream  None: standard error; console colours only if that is a terminal
    Returns: a structlog bound logger: log.info("what happened", key=value)
    """
    out = sys.stderr if stream is None else stream
    level = getattr(logging, config.log_level.upper())
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if resolve_format(config.log_format, out) == "json":
        processors += [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=out.isatty()))
    return structlog.wrap_logger(
        structlog.WriteLogger(_Unfailing(out)),  # type: ignore[arg-type]
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
        **bind,
    )
