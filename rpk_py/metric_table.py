"""Every metric of the broker: its name, type, labels and meaning, and what to do about it.

Both sides read this table: a shard counts under these names, the supervisor renders them in this
order, and docs/METRICS.md is made from it. Names follow Prometheus: `rpk_` in front, the unit at
the end, `_total` behind a counter. Pure data; no process of its own.
"""

from __future__ import annotations

from typing import Final

from rpk_py.metric_table_storage import DATA, PARTITIONS
from rpk_py.metric_types import (
    LAG_BOUNDS,
    REQUEST_BOUNDS,
    WAIT_BOUNDS,
    WRITE_BOUNDS,
    Group,
    Metric,
    rows,
)

_BROKER = Group(
    "The broker",
    "Kept by the supervisor; there also while shards are dead, stopped or starting.",
    (
        *rows(
            (),
            ("rpk_up", "gauge", "1 while all shards serve.", "0: see rpk_shard_up."),
            ("rpk_shards", "gauge", "Shards that this broker runs.", ""),
            ("rpk_shards_ready", "gauge", "Shards that serve now.", "Below rpk_shards: the log."),
            ("rpk_topics", "gauge", "Topics of the cluster.", ""),
            (
                "rpk_metadata_revision",
                "gauge",
                "Revision of the cluster's metadata.",
                "Grows fast: somebody creates and deletes topics in a loop.",
            ),
            ("rpk_uptime_seconds", "gauge", "Time since the supervisor started.", ""),
            (
                "rpk_resident_memory_bytes",
                "gauge",
                "Memory of the supervisor and all shards, shared pages counted once (PSS).",
                "Lower cache_bytes, connections_max or the number of shards.",
            ),
        ),
        Metric(
            "rpk_metadata_commit_seconds",
            "histogram",
            (),
            "Time of one metadata commit, to stable storage.",
            "The disk is slow or full; topics are created slowly, data is not held up.",
            WRITE_BOUNDS,
        ),
        *rows(
            ("shard",),
            (
                "rpk_shard_up",
                "gauge",
                "1 if the shard's values are in this scrape; 0 if it is not ready, or did not"
                " answer within metrics_timeout_s.",
                "0: it died (rpk_shard_restarts_total), recovers, or its loop is held up.",
            ),
            (
                "rpk_shard_restarts_total",
                "counter",
                "Times that the shard died and was started again.",
                "The log says what ended it.",
            ),
            (
                "rpk_shard_hung_total",
                "counter",
                "Times that the shard was killed because it gave no sign of life"
                " (shard_silent_s_max).",
                "Something held up its loop: a stopped process, a core that is overcommitted.",
            ),
            (
                "rpk_control_queue_messages",
                "gauge",
                "Messages (metadata changes, replies) that wait to be sent to the shard.",
                "The shard does not keep up: see rpk_loop_lag_seconds.",
            ),
        ),
        *rows(
            ("op", "shard"),
            (
                "rpk_control_requests_total",
                "counter",
                "Metadata requests of the shard to the controller.",
                "Many clients change topics or configurations, or start new producers.",
            ),
        ),
    ),
)

_PROCESSES = Group(
    "Processes",
    'Read from /proc by the supervisor, for itself (`process="supervisor"`) and for every shard'
    " that exists, answering or not.",
    (
        *rows(
            ("process", "shard"),
            (
                "rpk_process_resident_bytes",
                "gauge",
                "Resident memory (RSS), shared pages included.",
                "Compare rpk_cache_bytes, rpk_inflight_bytes, rpk_partial_frame_bytes and"
                " rpk_reply_bytes, which bound it.",
            ),
            (
                "rpk_process_proportional_bytes",
                "gauge",
                "Proportional memory (PSS): pages shared by n processes count 1/n.",
                "As above; this one adds up over the processes.",
            ),
            (
                "rpk_process_open_fds",
                "gauge",
                "Open files: connections, segments of partitions, and about 15 more.",
                "Near the limit (ulimit -n): raise it, or lower connections_max.",
            ),
            (
                "rpk_process_start_time_seconds",
                "gauge",
                "When the process started, in seconds since the epoch.",
                "Changes when a shard is started again; its counters then begin at 0.",
            ),
        ),
        *rows(
            ("process", "shard", "mode"),
            (
                "rpk_process_cpu_seconds_total",
                "counter",
                'CPU time, mode="user" and mode="system".',
                "A rate near 1 for one shard: that core is full; spread partitions, or use"
                " more shards.",
            ),
        ),
    ),
)

_REQUESTS = Group(
    "Requests of a shard",
    "A request's time runs from when its frame is whole and its turn on the connection has come"
    " to when its reply is handed to the kernel: decoding, the disk, waiting for replies before"
    " it. The time that a Fetch waits for new data because the client asked it to is not in it,"
    " but in rpk_fetch_wait_seconds. A request whose client left has no time.",
    (
        Metric(
            "rpk_requests_total",
            "counter",
            ("api", "shard"),
            "Requests received, by API.",
            "",
        ),
        Metric(
            "rpk_request_seconds",
            "histogram",
            ("api", "shard"),
            "Time to answer a request, without the wait of a Fetch for new data.",
            "Produce: compare rpk_write_seconds (the disk) and rpk_loop_lag_seconds (the CPU)."
            " Fetch: rpk_cache_misses_total.",
            REQUEST_BOUNDS,
        ),
        Metric(
            "rpk_fetch_wait_seconds",
            "histogram",
            ("shard",),
            "Time that a Fetch without enough data waited for it, at most its max_wait_ms.",
            "High is normal: the consumers are caught up.",
            WAIT_BOUNDS,
        ),
        Metric(
            "rpk_errors_total",
            "counter",
            ("api", "error", "shard"),
            "Error codes sent to clients, one for each topic, partition or request that has one.",
            "NOT_LEADER_OR_FOLLOWER and UNKNOWN_TOPIC_OR_PARTITION after changes are normal;"
            " KAFKA_STORAGE_ERROR: see rpk_partition_offline.",
        ),
        *rows(
            ("shard",),
            (
                "rpk_decode_errors_total",
                "counter",
                "Connections closed because the client broke the protocol.",
                "The log names the client; often not a Kafka client, or TLS on a plaintext port.",
            ),
            (
                "rpk_requests_too_large_total",
                "counter",
                "Connections closed because a request had more than request_items_max items.",
                "The log names the client; raise the limit, or have it ask for less at a time.",
            ),
            ("rpk_received_bytes_total", "counter", "Bytes of requests received.", ""),
            ("rpk_sent_bytes_total", "counter", "Bytes of replies handed to the kernel.", ""),
            (
                "rpk_inflight_bytes",
                "gauge",
                "Bytes of requests being handled now.",
                "Near inflight_bytes_max: the disk does not keep up with the producers.",
            ),
            (
                "rpk_partial_frame_bytes",
                "gauge",
                "Bytes of buffers for frames that are still arriving.",
                "Many large requests over slow networks.",
            ),
            (
                "rpk_reply_bytes",
                "gauge",
                "Bytes of replies that the kernel has not taken yet.",
                "Slow consumers; near reply_bytes_max fetches get less.",
            ),
            (
                "rpk_reading_paused_total",
                "counter",
                "Times that a connection's reading was paused at a budget or for its turn.",
                "With rpk_inflight_bytes near its limit: producers are held back.",
            ),
            (
                "rpk_fetch_waiters",
                "gauge",
                "Fetch requests waiting for data.",
                "Normal: about one for each idle consumer.",
            ),
            (
                "rpk_fetch_sessions",
                "gauge",
                "Incremental fetch sessions.",
                "At fetch_sessions_max: others name all partitions each time.",
            ),
            ("rpk_fetch_session_partitions", "gauge", "Partitions in these.", ""),
            ("rpk_fetch_sessions_evicted_total", "counter", "Those closed to make room.", ""),
        ),
    ),
)

_SHARD = Group(
    "A shard",
    "",
    (
        Metric(
            "rpk_loop_lag_seconds",
            "histogram",
            ("shard",),
            "How late a timer of the shard's event loop fired, measured 20 times a second.",
            "The shard's core is full, or shared with another process.",
            LAG_BOUNDS,
        ),
        *rows(
            ("reason", "shard"),
            (
                "rpk_connections_rejected_total",
                "counter",
                "Client connections closed at once, by the limit that they met.",
                "Raise it, or find who connects; open_files: raise ulimit -n.",
            ),
            (
                "rpk_connections_dropped_total",
                "counter",
                "Client connections closed because they were idle, or held the most of partial"
                " frames or of replies not taken when those reached their limit.",
                "The log names the clients; see partial_frame_bytes_max and reply_bytes_max.",
            ),
        ),
        *rows(
            ("shard",),
            (
                "rpk_loop_lag_max_seconds",
                "gauge",
                "The largest such lag of the last 30 to 60 seconds.",
                "One long pause: a huge request, or the machine (steal, swap).",
            ),
            ("rpk_connections", "gauge", "Client connections open now.", ""),
            (
                "rpk_connections_accepted_total",
                "counter",
                "Client connections accepted since the start.",
                "A high rate: clients that connect anew for each request.",
            ),
            (
                "rpk_large_waiting",
                "gauge",
                "Large requests that wait for others (large_requests_max).",
                "Many clients ask for thousands of partitions at a time.",
            ),
            (
                "rpk_log_lines_suppressed_total",
                "counter",
                "Log lines about clients that were not written, because there were many.",
                "The lines that were written say who and what.",
            ),
            (
                "rpk_cache_hits_total",
                "counter",
                "Reads of a partition served from record buffers in memory.",
                "",
            ),
            (
                "rpk_cache_misses_total",
                "counter",
                "Reads of a partition that had to go to disk.",
                "Consumers that are behind; raise cache_bytes.",
            ),
            ("rpk_cache_bytes", "gauge", "Bytes of record buffers held in memory.", ""),
            ("rpk_partitions", "gauge", "Partitions that this shard leads.", ""),
            (
                "rpk_partitions_offline",
                "gauge",
                "Partitions that this shard leads but cannot serve.",
                "Above 0: rpk_partition_offline names them, the log says why.",
            ),
        ),
    ),
)

_LAG_LABELS: Final = ("group", "topic", "partition")
_EXPORTER_LABELS: Final = ("consumergroup", "topic", "partition")
_CONSUMERS = Group(
    "Consumer groups",
    "Lag is told of every partition that a group has committed, as long as the shards that"
    " coordinate the group and lead the partition answer.",
    (
        *rows(
            ("type", "state", "shard"),
            ("rpk_groups", "gauge", "Groups that the shard coordinates.", ""),
        ),
        *rows(
            ("shard",),
            ("rpk_group_members", "gauge", "Members of these groups.", ""),
            (
                "rpk_group_rebalances_total",
                "counter",
                "Generations of classic groups, and targets of others, that the shard began.",
                "`rpk-py group describe --history` says why.",
            ),
            (
                "rpk_offset_commits_total",
                "counter",
                "Partitions whose offset was committed.",
                "Clients that commit each record: commit batches.",
            ),
            (
                "rpk_group_log_rewrites_total",
                "counter",
                "Times that what is in force of a partition of __consumer_offsets was written"
                " anew, to bound its log.",
                "",
            ),
            (
                "rpk_group_load_seconds_total",
                "counter",
                "Time that groups were being read from the disk.",
                "",
            ),
        ),
        *rows(
            _LAG_LABELS,
            (
                "rpk_group_lag_records",
                "gauge",
                "Records that the group has not committed yet.",
                "It grows: consumers are too slow, or stand still.",
            ),
            (
                "rpk_group_lag_seconds",
                "gauge",
                "How long ago the first of them was appended, within a second or, for old ones,"
                " a thirtieth of their age; since the start of the leader at most; 0 without lag.",
                "The same; it is what a limit on staleness is about.",
            ),
        ),
        *rows(
            _EXPORTER_LABELS,
            (
                "kafka_consumergroup_lag",
                "gauge",
                "rpk_group_lag_records under the name that kafka_exporter uses.",
                "",
            ),
            (
                "kafka_consumergroup_current_offset",
                "gauge",
                "The committed offset, under the name that kafka_exporter uses.",
                "",
            ),
        ),
    ),
)

GROUPS: Final = (_BROKER, _PROCESSES, _REQUESTS, _SHARD, DATA, PARTITIONS, _CONSUMERS)
METRICS: Final = {metric.name: metric for group in GROUPS for metric in group.metrics}


def _counted(*groups: Group) -> dict[str, str]:
    """The name without prefix and `_total`, to the name, of a shard's plain values."""
    return {
        metric.name.removeprefix("rpk_").removesuffix("_total"): metric.name
        for group in groups
        for metric in group.metrics
        if metric.labels == ("shard",) and metric.kind in ("counter", "gauge")
    }


SHARD_VALUES: Final = _counted(_REQUESTS, _SHARD, DATA, _CONSUMERS)

# The columns of a slice of partitions, after the topics and the partition numbers.
PARTITION_COLUMNS: Final = (
    *("rpk_partition_bytes_in_total", "rpk_partition_records_in_total"),
    *("rpk_partition_bytes_out_total", "rpk_partition_records_out_total"),
    *("rpk_partition_write_seconds_sum", "rpk_partition_write_seconds_count"),
    *("rpk_partition_log_start_offset", "rpk_partition_log_end_offset"),
    "rpk_partition_high_watermark",
    "rpk_partition_size_bytes",
    "rpk_partition_leader_epoch",
)
