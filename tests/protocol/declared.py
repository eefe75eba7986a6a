"""Every message that kafka_protocol/messages declares, served yet or not.

The schemas of an API come before its handler, and are compared with Kafka's from the start; what
goes through frame.py is tested from the moment that api.SUPPORTED has the row.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from kafka_protocol import messages
from kafka_protocol.schema import info_of


def _messages() -> Iterator[type]:
    for module in pkgutil.iter_modules(messages.__path__, f"{messages.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and value.__module__ == module.name:
                if hasattr(value, "__message__"):
                    yield value


# Each class with each of its versions.
DECLARED: list[tuple[type, int]] = [
    (cls, version)
    for cls in _messages()
    for version in range(info_of(cls).versions[0], info_of(cls).versions[1] + 1)
]
REQUESTS = [(cls, version) for cls, version in DECLARED if info_of(cls).kind == "request"]
