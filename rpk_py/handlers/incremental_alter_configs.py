"""IncrementalAlterConfigs (key 44), versions 0-1: changes of single dynamic configs (KIP-339).

v1  flexible

Behaviour:  the controller checks and commits, and answers when every live shard acts by the new
            configs, so that the client's next produce meets them, or after 30 s
            (REQUEST_TIMED_OUT; the change goes on). Each resource succeeds or fails as a whole and
            by itself. With validate_only nothing is changed. A broker's configs are those of its
            node id, or of all nodes where the name is empty. A deletion of what is not set, or not
            known, changes nothing and is no error. A bad value is INVALID_CONFIG for a topic and
            INVALID_REQUEST for a broker, as in Kafka. The rules are in metadata/config_plan.py.
Deviations: any node takes the configs of any other, a broker of Kafka only its own. A broker
            config that does not exist is refused, Kafka stores it for plug-ins. Some broker
            configs that Kafka reads once are dynamic: auto.create.topics.enable, num.partitions,
            fetch.max.bytes, socket.request.max.bytes; what only the controller reads, like
            num.partitions, is set for all nodes or not at all. A value that does not agree with
            the others of some node is refused; a deletion never is, and what then disagrees is
            ignored. An operation that does not exist is INVALID_REQUEST for a topic too, where
            Kafka fails with an unknown error. Elements of lists are compared without the blanks
            around them. Loggers, client metrics and groups have no configs here.
"""

from __future__ import annotations

from kafka_protocol.messages.incremental_alter_configs import (
    AlterConfigsResourceResponse,
    IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
)
from rpk_py.context import RequestContext
from rpk_py.metadata.requests import ConfigResource


async def handle(
    ctx: RequestContext, request: IncrementalAlterConfigsRequest
) -> IncrementalAlterConfigsResponse:
    """Let the controller change the configs, and give its answers."""
    resources = [
        ConfigResource(
            resource.resource_type,
            resource.resource_name,
            [(config.name, config.config_operation, config.value) for config in resource.configs],
        )
        for resource in request.resources
    ]
    results = await ctx.broker.metadata.alter_configs(resources, True, request.validate_only)
    return IncrementalAlterConfigsResponse(
        responses=[
            AlterConfigsResourceResponse(r.error_code, r.error_message, r.kind, r.name)
            for r in results
        ]
    )
