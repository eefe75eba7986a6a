"""Every declared API and version, both directions, against kio's bytes.

kio's encoder is somebody else's and generated from Kafka's schemas: bytes that it wrote must decode
to the same values here, and our encoder must write the same bytes. The parameters come from
the declared messages, so a version without a class in kio is a failing test and not a gap; a
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
from kafka_protocol.api import SUPPORTED, ApiKey
from kafka_protocol.closures import compile_decoder, compile_encoder
from kafka_protocol.schema import UUID, info_of, specs_of
from tests.protocol import kio_values
from tests.protocol.declared import DECLARED

# (api key, version, "request" or "response") -> the reason why kio's bytes are not compared.
WITHOUT_ORACLE: dict[tuple[int, int, str], str] = {}


def _triple(cls: type, version: int) -> tuple[int, int, str]:
    return info_of(cls).api_key, version, info_of(cls).kind


COMPARED = [pair for pair in DECLARED if _triple(*pair) not in WITHOUT_ORACLE]
SERVED = [pair for pair in COMPARED if info_of(pair[0]).api_key in SUPPORTED]


def _id(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else f"v{value}"


def _kio_class(cls: type, version: int) -> type:
    info = info_of(cls)
    return kio_values.kio_class(ApiKey(info.api_key).name.lower(), version, info.kind)


def _pair(cls: type, version: int, values: str) -> tuple[Any, bytes, Any]:
    """kio's value, kio's bytes, our value."""
    theirs = kio_values.build(_kio_class(cls, version), values)
    return theirs, kio_values.encode(theirs), kio_values.to_ours(theirs, cls, version)


@pytest.mark.parametrize(("cls", "version"), COMPARED, ids=_id)
def test_our_bytes_and_values_are_those_of_kio(cls: Any, version: int) -> None:
    """The compiled closures of every message, by themselves."""
    for values in kio_values.KINDS:
        _, data, ours = _pair(cls, version, values)
        out = bytearray()
        compile_encoder(cls, version)(out, ours)
        assert bytes(out) == data, values
        decoded, pos = compile_decoder(cls, version)(memoryview(data), 0)
        assert pos == len(data), values
        assert decoded == ours, values


@pytest.mark.parametrize(("cls", "version"), SERVED, ids=_id)
def test_whole_frames_are_those_of_kio(cls: Any, version: int) -> None:
    """With size and header, through frame.py, so that the hand-written functions are met too."""
    info = info_of(cls)
    for values in kio_values.KINDS:
        theirs, data, ours = _pair(cls, version, values)
        if info.kind == "request":
            header_type = HeaderV2 if version >= info.flexible else HeaderV1
            assert type(theirs).__header_schema__ is header_type
            client_id = None if values == "null" else "client-ä"
            header = header_type(
                request_api_key=info.api_key,
                request_api_version=version,
                correlation_id=77,
                client_id=client_id,
            )
            body = kio_values.encode(header) + data
            whole = len(body).to_bytes(4, "big") + body
            assert frame.encode_request(ours, version, 77, client_id) == whole
            decoded_header, decoded = frame.decode_request(memoryview(whole)[4:])
            expected = frame.RequestHeader(info.api_key, version, 77, client_id)
            assert decoded_header == expected
            assert decoded == ours
        else:
            body = kio_values.encode(type(theirs).__header_schema__(correlation_id=77)) + data
            whole = len(body).to_bytes(4, "big") + body
            parts = frame.encode_response(info.api_key, version, 77, ours)
            assert b"".join(parts) == whole
            assert frame.decode_response(info.api_key, version, memoryview(body)) == (77, ours)


@pytest.mark.parametrize(("cls", "version"), COMPARED, ids=_id)
def test_nullability_defaults_and_tags_are_those_of_kio(cls: Any, version: int) -> None:
    """What no single value shows: a field that we would let be null, a default, a tag number."""
    _compare_classes(_kio_class(cls, version), cls, version)


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
    declared = {_triple(cls, version) for cls, version in DECLARED}
    assert served <= declared
    assert set(WITHOUT_ORACLE) <= declared
    compared = {_triple(cls, version) for cls, version in COMPARED}
    assert compared == declared - set(WITHOUT_ORACLE)
