"""kafka_protocol.closures: tagged fields that no message of today has."""

from __future__ import annotations

import pytest

from kafka_protocol.closures import compile_decoder, compile_encoder
from kafka_protocol.schema import INT8, STRING, Array, F, message, struct


@struct
class Inner:
    number: int = F(INT8)


@message(api_key=32_000, kind="request", versions=(0, 1), flexible=0)
class Tagged:
    text: str | None = F(STRING, tag=0, nullable=0)
    items: list[int] | None = F(Array(INT8), tag=1, nullable=0)
    struct_or_null: Inner | None = F(Inner, tag=2, nullable=0, default=None)
    null_or_struct: Inner | None = F(Inner, tag=3, nullable=0)
    plain: Inner | None = F(Inner, tag=4, default=None)
    later: list[int] | None = F(Array(INT8), tag=5, nullable=1, default=None)


# What is set, and the section of tagged fields: count, then tag, size, value of each.
CASES = [
    ({}, "00"),
    ({"text": None}, "01 00 01 00"),
    ({"text": "a"}, "01 00 02 0261"),
    ({"items": None}, "01 01 01 00"),
    ({"struct_or_null": Inner()}, "01 02 03 01 00 00"),
    ({"struct_or_null": Inner(7)}, "01 02 03 01 07 00"),
    ({"null_or_struct": None}, "01 03 01 ff"),
    ({"null_or_struct": Inner(7)}, "01 03 03 01 07 00"),
    ({"plain": Inner(7)}, "01 04 02 07 00"),
    ({"later": []}, "01 05 01 01"),
    ({"text": None, "null_or_struct": None}, "02 00 01 00 03 01 ff"),
]


@pytest.mark.parametrize(("values", "section"), CASES)
def test_a_tagged_field_is_written_unless_it_has_its_default(
    values: dict[str, object], section: str
) -> None:
    value, out = Tagged(**values), bytearray()  # type: ignore[arg-type]
    compile_encoder(Tagged, 1)(out, value)
    assert out == bytes.fromhex(section)
    assert compile_decoder(Tagged, 1)(memoryview(out), 0) == (value, len(out))


def test_a_plain_struct_of_defaults_stands_for_none() -> None:
    out = bytearray()
    compile_encoder(Tagged, 1)(out, Tagged(plain=Inner()))
    assert out == b"\0"
