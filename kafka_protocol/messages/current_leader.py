"""Who leads a partition now and where it is: what Produce and Fetch answers share (KIP-951)."""

from __future__ import annotations

from kafka_protocol.schema import INT32, STRING, F, struct


@struct
class LeaderIdAndEpoch:
    leader_id: int = F(INT32, default=-1)
    leader_epoch: int = F(INT32, default=-1)


@struct
class NodeEndpoint:
    node_id: int = F(INT32)
    host: str = F(STRING)
    port: int = F(INT32)
    rack: str | None = F(STRING, nullable=0, default=None)
