"""ApiVersions (key 18), versions 0-4: what this broker serves. The first request of a client.

v0  error code and one (key, min, max) for each API
v1  throttle_time_ms
v3  flexible body (the response header stays version 0); the client's software name and version;
    features in tagged fields
v4  features with a minimum of 0 may be listed

Behaviour:  the answer is api.SUPPORTED, Produce from its advertised minimum (0: librdkafka below
            2.11.1 stops compressing where it is higher, KAFKA-18659). The software name and
            version of v3+ must look like one (KIP-511), else INVALID_REQUEST and no keys.
            A version that we do not know is answered by `error_response`, which the connection
            calls: a v0 body with UNSUPPORTED_VERSION and our range of this key, from which clients
            learn what to ask with.
Deviations: no features are advertised, finalized or not, until one is implemented; the finalized
            epoch is then -1 and clients ignore the list.
"""

from __future__ import annotations

import re
from typing import Final

from kafka_protocol.api import SUPPORTED, ApiKey
from kafka_protocol.errors import ErrorCode
from kafka_protocol.messages.api_versions import (
    ApiVersion,
    ApiVersionsRequest,
    ApiVersionsResponse,
)
from rpk_py.context import RequestContext

_SOFTWARE: Final = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")
_SOFTWARE_SINCE: Final = 3

_ADVERTISED: Final = [
    ApiVersion(spec.key, spec.advertised_min, spec.max_version)
    for _, spec in sorted(SUPPORTED.items())
]
_OWN_RANGE: Final = [entry for entry in _ADVERTISED if entry.api_key == ApiKey.API_VERSIONS]


def handle(ctx: RequestContext, request: ApiVersionsRequest) -> ApiVersionsResponse:
    """Answer with everything that is served, at once."""
    if ctx.api_version >= _SOFTWARE_SINCE:
        for text in (request.client_software_name, request.client_software_version):
            if _SOFTWARE.fullmatch(text) is None:
                return ApiVersionsResponse(error_code=ErrorCode.INVALID_REQUEST)
    return ApiVersionsResponse(api_keys=_ADVERTISED)


def error_response() -> ApiVersionsResponse:
    """The answer to a version that is not served; to be encoded as version 0."""
    return ApiVersionsResponse(error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=_OWN_RANGE)
