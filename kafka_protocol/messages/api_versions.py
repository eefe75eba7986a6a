"""ApiVersions (key 18), versions 0-4: which APIs and versions does this broker serve?

v1 throttle time; v3 flexible, the client's software name and version, features as tagged fields;
v4 features whose lowest level is 0. The response header is always v0, also for flexible versions,
because a client asks before it knows what the broker understands (KIP-511).
"""

from __future__ import annotations

from kafka_protocol.api_key import ApiKey
from kafka_protocol.schema import BOOL, INT16, INT32, INT64, STRING, Array, F, message, struct


@message(api_key=ApiKey.API_VERSIONS, kind="request", versions=(0, 4), flexible=3)
class ApiVersionsRequest:
    client_software_name: str = F(STRING, since=3)
    client_software_version: str = F(STRING, since=3)


@struct
class ApiVersion:
    api_key: int = F(INT16)
    min_version: int = F(INT16)
    max_version: int = F(INT16)


@struct
class SupportedFeatureKey:
    name: str = F(STRING)
    min_version: int = F(INT16)
    max_version: int = F(INT16)


@struct
class FinalizedFeatureKey:
    name: str = F(STRING)
    max_version_level: int = F(INT16)
    min_version_level: int = F(INT16)


@message(api_key=ApiKey.API_VERSIONS, kind="response", versions=(0, 4), flexible=3)
class ApiVersionsResponse:
    error_code: int = F(INT16)
    api_keys: list[ApiVersion] = F(Array(ApiVersion))
    throttle_time_ms: int = F(INT32, since=1)
    supported_features: list[SupportedFeatureKey] = F(Array(SupportedFeatureKey), since=3, tag=0)
    finalized_features_epoch: int = F(INT64, since=3, default=-1, tag=1)
    finalized_features: list[FinalizedFeatureKey] = F(Array(FinalizedFeatureKey), since=3, tag=2)
    zk_migration_ready: bool = F(BOOL, since=3, tag=3)
