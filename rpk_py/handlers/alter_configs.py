"""AlterConfigs (key 33), versions 0-2: the dynamic configs of topics and brokers, all at once.

v2  flexible

Behaviour:  what is not given goes back to its default; otherwise as incremental_alter_configs.py,
            which clients of today send instead.
Deviations: those of IncrementalAlterConfigs.
"""

from __future__ import annotations

from kafka_protocol.messages.alter_configs import (
    AlterConfigsRequest,
    AlterConfigsResourceResponse,
    AlterConfigsResponse,
)
from rpk_py.context import RequestContext
from rpk_py.metadata.config_plan import SET
from rpk_py.metadata.requests import ConfigResource


async def handle(ctx: RequestContext, request: AlterConfigsRequest) -> AlterConfigsResponse:
    """Let the controller change the configs, and give its answers."""
    resources = [
        ConfigResource(
            resource.resource_type,
            resource.resource_name,
            [(config.name, SET, config.value) for config in resource.configs],
        )
        for resource in request.resources
    ]
    results = await ctx.broker.metadata.alter_configs(resources, False, request.validate_only)
    return AlterConfigsResponse(
        responses=[
            AlterConfigsResourceResponse(r.error_code, r.error_message, r.kind, r.name)
            for r in results
        ]
    )
