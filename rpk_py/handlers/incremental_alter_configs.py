"""IncrementalAlterConfigs (key 44), versions 0-1: changes of single dynamic configs (KIP-339).

v1  flexible

Behaviour:  the controller checks and commits, and answers when every live shard acts by the new
            configs, so that the client's next produce meets them, or after 30 s
            (REQUEST_TIMED_OUT; the change goes on). Each resource succeeds or fails as a whole and
            by itself. With validate_only nothing is changed. A broker's configs are those of its
            node id, or of all nodes where the name is empty.
Deviations: those of metadata/config_plan.py, which has the rules.
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
