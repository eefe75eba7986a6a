"""Scaffold."""

from __future__ import annotations

from typing import Any


class ConsumerGroup:
    wake_ms = None

    def __init__(self, group_id: str, settings: Any, now_ms: int) -> None: ...
    def __getattr__(self, name: str) -> Any: ...
