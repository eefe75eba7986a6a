"""Every served API and version, both directions, against kio's bytes.

kio's encoder is somebody else's and generated from Kafka's schemas: bytes that it wrote must decode
to the same values here, and our encoder must write the same bytes. The parameters come from
api.SUPPORTED, so a served version without a case in kio is a failing test and not a gap; a
version that kio lacks would have to be listed in WITHOUT_ORACLE with its reason.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

import pytest
from kio.schema.request_header.v1.header import RequestHeader as HeaderV1
from kio.schema.request_header.v2.header import RequestHeader as HeaderV2

from kafka_protocol import frame
from kafka_protocol.api import SUPPORTED, ApiSpec
from kafka_protocol.closures import compile_decoder, compile_encoder
from kafka_protocol.schema import UUID, specs_of
from tests.protocol import kio_values

# (api key, version, "request" or "response") -> the reason why kio's bytes are not compared.
WITHOUT_ORACLE: dict[tuple[int, int, str], str] = {}

DIRECTIONS = [
    (spec, version, kind)
    for spec in SUPPORTED.values()
    for version in range(spec.min_version, spec.max_version + 1)
    for kind in ("request", "response")
    if (spec.key, version, kind) not in WITHOUT_ORACLE
]


def _id(value: Any) -> str:
    return value.key.name.lower() if isinstance(value, ApiSpec) else str(value)


def _pair(spec: ApiSpec, version: int, kind: str, values: str) -> tuple[Any, bytes, Any]:
    """kio's value, kio's bytes, our value."""
    theirs = kio_values.build(kio_values.kio_class(spec.key.name.lower(), version, kind), values)
    cls = spec.request if kind == "request" else spec.response
    return theirs, kio_values.encode(theirs), kio_values.to_ours(theirs, cls, version)


@pytest.mark.parametrize(("spec", "version", "kind"), DIRECTIONS, ids=_id)
def test_our_bytes_and_values_are_those_of_kio(spec: ApiSpec, version: int, kind: str) -> None:
    """The compiled closures of every message, by themselves."""
    for values in kio_values.KINDS:
        _, data, ours = _pair(spec, version, kind, values)
        cls: Any = type(ours)
        out = bytearray()
        compile_encoder(cls, version)(out, ours)
        assert bytes(out) == data, values
        decoded, pos = compile_decoder(cls, version)(memoryview(data), 0)
        assert pos == len(data), values
        assert decoded == ours, values


@pytest.mark.parametrize(("spec", "version", "kind"), DIRECTIONS, ids=_id)
def test_whole_frames_are_those_of_kio(spec: ApiSpec, version: int, kind: str) -> None:
    """With size and header, through frame.py, so that the hand-written functions are met too."""
    for values in kio_values.KINDS:
        theirs, data, ours = _pair(spec, version, kind, values)
        if kind == "request":
            header_type = HeaderV2 if version >= spec.first_flexible else HeaderV1
            assert type(theirs).__header_schema__ is header_type
            client_id = None if values == "null" else "client-ä"
            header = header_type(
                request_api_key=spec.key,
                request_api_version=version,
                correlation_id=77,
                client_id=client_id,
            )
            body = kio_values.encode(header) + data
            whole = len(body).to_bytes(4, "big") + body
            assert frame.encode_request(ours, version, 77, client_id) == whole
            decoded_header, decoded = frame.decode_request(memoryview(whole)[4:])
            expected = frame.RequestHeader(spec.key, version, 77, client_id)
            assert decoded_header == expected
            assert decoded == ours
        else:
            body = kio_values.encode(type(theirs).__header_schema__(correlation_id=77)) + data
            whole = len(body).to_bytes(4, "big") + body
            parts = frame.encode_response(spec.key, version, 77, ours)
            assert b"".join(parts) == whole
            assert frame.decode_response(spec.key, version, memoryview(body)) == (77, ours)


@pytest.mark.parametrize(("spec", "version", "kind"), DIRECTIONS, ids=_id)
def test_nullability_defaults_and_tags_are_those_of_kio(
    spec: ApiSpec, version: int, kind: str
) -> None:
    """What no single value shows: a field that we would let be null, a default, a tag number."""
    theirs = kio_values.kio_class(spec.key.name.lower(), version, kind)
    _compare_classes(theirs, spec.request if kind == "request" else spec.response, version)


def _compare_classes(theirs: type, ours: type, version: int) -> None:
    hints = typing.get_type_hints(theirs)
    their_fields = {field.name: field for field in dataclasses.fields(theirs)}
    for spec in specs_of(ours):
        if not spec.active(version):
            continue
        name = spec.name if spec.name in their_fields else spec.name.removesuffix("_ms")
        field, hint = their_fields[name], hints[name]
        assert field.metadata.get("tag") == spec.tag, name
        union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        if field.metadata.get("kafka_type") not in ("uuid", "datetime_i64"):
            nullable = spec.nullable is not None and version >= spec.nullable
            assert nullable == union, f"{ours.__name__}.{name}"
        if field.default is not dataclasses.MISSING and spec.kind is not UUID:
            expected = kio_values.to_ours_field(field.default, spec, version)
            assert spec.default_value() == expected, f"{ours.__name__}.{name}"
        hint = (
            next((a for a in typing.get_args(hint) if a is not types.NoneType), hint)
            if union
            else hint
        )
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
        if dataclasses.is_dataclass(inner):
            item = getattr(spec.kind, "item", spec.kind)
            assert isinstance(inner, type)
            _compare_classes(inner, item, version)


def test_every_served_version_has_foreign_bytes_or_a_reason() -> None:
    served = {
        (spec.key, version, kind)
        for spec in SUPPORTED.values()
        for version in range(spec.min_version, spec.max_version + 1)
        for kind in ("request", "response")
    }
    compared = {(spec.key, version, kind) for spec, version, kind in DIRECTIONS}
    assert compared | set(WITHOUT_ORACLE) == served
    assert not compared & set(WITHOUT_ORACLE)
    assert set(WITHOUT_ORACLE) <= served
