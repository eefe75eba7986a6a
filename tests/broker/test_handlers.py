"""The table of handlers: one row for every API that is served, and no other."""

from __future__ import annotations

from kafka_protocol.api import SUPPORTED
from rpk_py.handlers import HANDLERS


def test_every_served_api_has_a_handler_and_no_other_has_one() -> None:
    assert {int(key) for key in HANDLERS} == {int(key) for key in SUPPORTED}


def test_a_handler_lives_in_the_module_that_is_named_like_its_messages() -> None:
    for key, handler in HANDLERS.items():
        messages = SUPPORTED[key].request.__module__.rpartition(".")[2]
        assert handler.__module__ == f"rpk_py.handlers.{messages}"
