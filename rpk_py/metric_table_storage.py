"""The metrics of a shard's data: what is appended and read, written, kept and deleted.

A part of metric_table.py, which says how such tables are read. Pure data; no process of its own.
"""

from __future__ import annotations

from typing import Final

from rpk_py.metric_types import (
    BATCHES_BOUNDS,
    WRITE_BOUNDS,
    WRITE_BYTES_BOUNDS,
    Group,
    Metric,
    rows,
)

DATA: Final = Group(
    "Data of a shard",
    "",
    (
        *rows(
            ("shard",),
            ("rpk_produced_batches_total", "counter", "Record batches appended.", ""),
            ("rpk_produced_records_total", "counter", "Records appended.", ""),
            ("rpk_produced_bytes_total", "counter", "Bytes of record batches appended.", ""),
            (
                "rpk_duplicate_batches_total",
                "counter",
                "Batches of idempotent producers answered with their original offset.",
                "Producers retry: replies are late or connections break.",
            ),
            (
                "rpk_fetched_records_total",
                "counter",
                "Records sent to consumers; see rpk_partition_records_out_total.",
                "",
            ),
            (
                "rpk_fetched_bytes_total",
                "counter",
                "Bytes of record batches sent to consumers.",
                "",
            ),
            (
                "rpk_group_commits_total",
                "counter",
                "Durable writes, of a partition or the journal, each for all batches that waited.",
                "",
            ),
            (
                "rpk_journal_writes_total",
                "counter",
                "Those of them that went to the shard's journal, for several partitions at once.",
                "",
            ),
            ("rpk_journal_bytes_total", "counter", "Their bytes.", ""),
            (
                "rpk_write_bytes_total",
                "counter",
                "Bytes written to disk by group commits, padding included.",
                "Much more than rpk_produced_bytes_total: many small lone batches.",
            ),
        ),
        *rows(
            ("reason", "shard"),
            (
                "rpk_deleted_segments_total",
                "counter",
                "Segments deleted by retention, by the config that wanted it; storage.space.trim:"
                " before their time.",
                "Grows and the disk fills all the same: lower retention.ms or retention.bytes.",
            ),
            (
                "rpk_deleted_bytes_total",
                "counter",
                "Their bytes, padding included.",
                "",
            ),
        ),
        *rows(
            ("shard",),
            (
                "rpk_disk_free_bytes",
                "gauge",
                "Free bytes on the file system of the data directory, as of the last second.",
                "Below storage_min_free_bytes producers are refused.",
            ),
            ("rpk_disk_total_bytes", "gauge", "Its size.", ""),
            (
                "rpk_disk_level",
                "gauge",
                "0: there is room; 1: nearly full; 2: full, producers are refused.",
                "Delete topics or records, shorten retention, or enlarge the file system; the"
                " broker goes on by itself.",
            ),
            (
                "rpk_partitions_waiting_for_space",
                "gauge",
                "Partitions that have something to write and found no room. They are read.",
                "As rpk_disk_level; a quota, if that is 0.",
            ),
            (
                "rpk_retention_checks_total",
                "counter",
                "Times that all partitions were looked at for what has had its time"
                " (log.retention.check.interval.ms).",
                "Stands still: a check takes very long; see rpk_loop_lag_seconds and the log.",
            ),
            (
                "rpk_rewritten_segments_total",
                "counter",
                "Sealed segments that were written again without padding.",
                "",
            ),
            (
                "rpk_rewriting_saved_bytes_total",
                "counter",
                "Disk space that this gave back.",
                "Large: producers send lone small batches; linger.ms would save the disk's writes.",
            ),
            ("rpk_compactions_total", "counter", "Times that a log was compacted.", ""),
            (
                "rpk_compaction_seconds_total",
                "counter",
                "Time that compaction took, in a process of its own.",
                "Grows as fast as time: the process is always busy; raise min.cleanable.dirty.ratio"
                " or log.cleaner.io.max.bytes.per.second.",
            ),
            (
                "rpk_compaction_read_bytes_total",
                "counter",
                "Bytes of the segments that were compacted.",
                "",
            ),
            (
                "rpk_compaction_dropped_records_total",
                "counter",
                "Records that went: newer ones had their keys, or they were deletions of long ago.",
                "Few beside the bytes read: keys rarely repeat, and compaction is of little use.",
            ),
        ),
        *rows(
            ("shard",),
            (
                "rpk_disk_wait_seconds",
                "gauge",
                "For how long the disk operation is under way that the disk owes for longest: a"
                " read, a write, a file made or removed; 0 while there is none.",
                "Grows from scrape to scrape: the disk hangs. What is acknowledged is safe; what"
                " waits for the disk waits, and stop takes a kill.",
            ),
        ),
        Metric(
            "rpk_write_seconds",
            "histogram",
            ("shard",),
            "Time of one group commit, from its submission to its durability (write and fsync in"
            " one).",
            "The disk is slow or shared; nothing in the broker makes it faster. From half a second"
            " on the log says so, too.",
            WRITE_BOUNDS,
        ),
        Metric(
            "rpk_group_commit_batches",
            "histogram",
            ("shard",),
            "Record batches that one group commit made durable.",
            "High is good: one write serves many producers.",
            BATCHES_BOUNDS,
        ),
        Metric(
            "rpk_group_commit_bytes",
            "histogram",
            ("shard",),
            "Bytes that one group commit wrote, header and padding included.",
            "",
            WRITE_BYTES_BOUNDS,
        ),
    ),
)

PARTITIONS: Final = Group(
    "Partitions",
    "Of every partition, with and without traffic, as the shard that leads it sees it: eleven"
    " series each. A partition that moves to another shard begins at 0 there.",
    rows(
        ("topic", "partition", "shard"),
        (
            "rpk_partition_bytes_in_total",
            "counter",
            "Bytes of record batches appended, as they came (compressed).",
            "",
        ),
        (
            "rpk_partition_records_in_total",
            "counter",
            "Records appended, as the headers of their batches say.",
            "Far more than in the others: the key is uneven.",
        ),
        (
            "rpk_partition_bytes_out_total",
            "counter",
            "Bytes of record batches sent to consumers; whole batches, as often as fetched.",
            "",
        ),
        (
            "rpk_partition_records_out_total",
            "counter",
            "Records sent to consumers: offsets from the one that was asked for to the end of the"
            " last batch sent, as often as fetched. Nothing looks inside a batch.",
            "",
        ),
        (
            "rpk_partition_write_seconds",
            "summary",
            "Time of the partition's group commits, sum and count; the distribution is the"
            " shard's rpk_write_seconds.",
            "Higher than in others: larger writes, or a rolling segment.",
        ),
        (
            "rpk_partition_log_start_offset",
            "gauge",
            "The first offset that exists; -1 while offline from the start.",
            "",
        ),
        (
            "rpk_partition_log_end_offset",
            "gauge",
            "The offset of the next record appended; -1 while offline from the start.",
            "",
        ),
        (
            "rpk_partition_high_watermark",
            "gauge",
            "The offset up to which consumers may read.",
            "Stays below the log end: the disk does not answer.",
        ),
        (
            "rpk_partition_size_bytes",
            "gauge",
            "Bytes of the partition's log on disk, without space that is allocated ahead.",
            "DeleteRecords, or delete the topic.",
        ),
        (
            "rpk_partition_leader_epoch",
            "gauge",
            "The leader epoch; goes up with every start of the shard.",
            "",
        ),
        (
            "rpk_partition_offline",
            "gauge",
            "1 for a partition that cannot be served; the others have no such series.",
            "The log says why, and what to do.",
        ),
    ),
)
