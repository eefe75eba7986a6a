"""Golden frames of the config APIs, both directions, written by kio."""

from __future__ import annotations

from kafka_protocol.messages import (
    alter_configs,
    describe_configs,
    incremental_alter_configs,
)
from tests.protocol.cases import Case

CASES = [
    Case(
        "kio 0.6.5",
        1,
        42,
        "cli",
        describe_configs.DescribeConfigsRequest(
            resources=[
                describe_configs.DescribeConfigsResource(
                    resource_type=2,
                    resource_name="orders",
                    configuration_keys=["retention.ms", "x"],
                ),
                describe_configs.DescribeConfigsResource(
                    resource_type=4, resource_name="1", configuration_keys=None
                ),
            ],
            include_synonyms=True,
        ),
        "002000010000002a0003636c69000000020200066f726465727300000002000c726574656e74696f"
        "6e2e6d7300017804000131ffffffff01",
    ),
    Case(
        "kio 0.6.5",
        4,
        42,
        "cli",
        describe_configs.DescribeConfigsRequest(
            resources=[
                describe_configs.DescribeConfigsResource(
                    resource_type=2,
                    resource_name="orders",
                    configuration_keys=["retention.ms", "x"],
                ),
                describe_configs.DescribeConfigsResource(
                    resource_type=4, resource_name="1", configuration_keys=None
                ),
            ],
            include_synonyms=True,
            include_documentation=True,
        ),
        "002000040000002a0003636c69000302076f7264657273030d726574656e74696f6e2e6d73027800"
        "0402310000010100",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        alter_configs.AlterConfigsRequest(
            resources=[
                alter_configs.AlterConfigsResource(
                    resource_type=2,
                    resource_name="orders",
                    configs=[
                        alter_configs.AlterableConfig(name="retention.ms", value="1000"),
                        alter_configs.AlterableConfig(name="x", value=None),
                    ],
                )
            ],
            validate_only=True,
        ),
        "002100000000002a0003636c69000000010200066f726465727300000002000c726574656e74696f"
        "6e2e6d73000431303030000178ffff01",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        "cli",
        alter_configs.AlterConfigsRequest(
            resources=[
                alter_configs.AlterConfigsResource(
                    resource_type=2,
                    resource_name="orders",
                    configs=[
                        alter_configs.AlterableConfig(name="retention.ms", value="1000"),
                        alter_configs.AlterableConfig(name="x", value=None),
                    ],
                )
            ],
            validate_only=True,
        ),
        "002100020000002a0003636c69000202076f7264657273030d726574656e74696f6e2e6d73053130"
        "30300002780000000100",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        "cli",
        incremental_alter_configs.IncrementalAlterConfigsRequest(
            resources=[
                incremental_alter_configs.AlterConfigsResource(
                    resource_type=4,
                    configs=[
                        incremental_alter_configs.AlterableConfig(
                            name="message.max.bytes", value="1000"
                        ),
                        incremental_alter_configs.AlterableConfig(
                            name="flush.ms", config_operation=1, value=None
                        ),
                    ],
                )
            ],
            validate_only=True,
        ),
        "002c00000000002a0003636c69000000010400000000000200116d6573736167652e6d61782e6279"
        "746573000004313030300008666c7573682e6d7301ffff01",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        "cli",
        incremental_alter_configs.IncrementalAlterConfigsRequest(
            resources=[
                incremental_alter_configs.AlterConfigsResource(
                    resource_type=4,
                    configs=[
                        incremental_alter_configs.AlterableConfig(
                            name="message.max.bytes", value="1000"
                        ),
                        incremental_alter_configs.AlterableConfig(
                            name="flush.ms", config_operation=1, value=None
                        ),
                    ],
                )
            ],
            validate_only=True,
        ),
        "002c00010000002a0003636c690002040103126d6573736167652e6d61782e627974657300053130"
        "30300009666c7573682e6d73010000000100",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        None,
        describe_configs.DescribeConfigsResponse(
            results=[
                describe_configs.DescribeConfigsResult(
                    error_message=None,
                    resource_type=2,
                    resource_name="orders",
                    configs=[
                        describe_configs.DescribeConfigsResourceResult(
                            name="retention.ms",
                            value="1000",
                            config_source=1,
                            synonyms=[
                                describe_configs.DescribeConfigsSynonym(
                                    name="retention.ms", value="1000", source=1
                                ),
                                describe_configs.DescribeConfigsSynonym(
                                    name="log.retention.ms", value=None, source=5
                                ),
                            ],
                        )
                    ],
                ),
                describe_configs.DescribeConfigsResult(
                    error_code=3, error_message="unknown", resource_type=2, resource_name="none"
                ),
            ]
        ),
        "0000002a00000000000000020000ffff0200066f726465727300000001000c726574656e74696f6e"
        "2e6d7300043130303000010000000002000c726574656e74696f6e2e6d730004313030300100106c"
        "6f672e726574656e74696f6e2e6d73ffff0500030007756e6b6e6f776e0200046e6f6e6500000000",
    ),
    Case(
        "kio 0.6.5",
        4,
        42,
        None,
        describe_configs.DescribeConfigsResponse(
            results=[
                describe_configs.DescribeConfigsResult(
                    error_message=None,
                    resource_type=4,
                    resource_name="1",
                    configs=[
                        describe_configs.DescribeConfigsResourceResult(
                            name="node.id",
                            value="1",
                            read_only=True,
                            config_source=4,
                            is_sensitive=True,
                            config_type=3,
                            documentation=None,
                        ),
                        describe_configs.DescribeConfigsResourceResult(
                            name="x",
                            value=None,
                            config_source=5,
                            config_type=2,
                            documentation="words",
                        ),
                    ],
                )
            ]
        ),
        "0000002a00000000000200000004023103086e6f64652e6964023101040101030000027800000500"
        "010206776f726473000000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        alter_configs.AlterConfigsResponse(
            responses=[
                alter_configs.AlterConfigsResourceResponse(
                    error_message=None, resource_type=2, resource_name="orders"
                ),
                alter_configs.AlterConfigsResourceResponse(
                    error_code=40, error_message="bad value", resource_type=4, resource_name="1"
                ),
            ]
        ),
        "0000002a00000000000000020000ffff0200066f7264657273002800096261642076616c756504000131",
    ),
    Case(
        "kio 0.6.5",
        2,
        42,
        None,
        alter_configs.AlterConfigsResponse(
            responses=[
                alter_configs.AlterConfigsResourceResponse(
                    error_message=None, resource_type=2, resource_name="orders"
                ),
                alter_configs.AlterConfigsResourceResponse(
                    error_code=40, error_message="bad value", resource_type=4, resource_name="1"
                ),
            ]
        ),
        "0000002a00000000000300000002076f72646572730000280a6261642076616c75650402310000",
    ),
    Case(
        "kio 0.6.5",
        0,
        42,
        None,
        incremental_alter_configs.IncrementalAlterConfigsResponse(
            responses=[
                incremental_alter_configs.AlterConfigsResourceResponse(
                    error_message=None, resource_type=2, resource_name="orders"
                ),
                incremental_alter_configs.AlterConfigsResourceResponse(
                    error_code=40, error_message="bad value", resource_type=4
                ),
            ]
        ),
        "0000002a00000000000000020000ffff0200066f7264657273002800096261642076616c7565040000",
    ),
    Case(
        "kio 0.6.5",
        1,
        42,
        None,
        incremental_alter_configs.IncrementalAlterConfigsResponse(
            responses=[
                incremental_alter_configs.AlterConfigsResourceResponse(
                    error_message=None, resource_type=2, resource_name="orders"
                ),
                incremental_alter_configs.AlterConfigsResourceResponse(
                    error_code=40, error_message="bad value", resource_type=4
                ),
            ]
        ),
        "0000002a00000000000300000002076f72646572730000280a6261642076616c756504010000",
    ),
]
