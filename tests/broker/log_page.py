"""docs/LOGS.md: what each event of the log means, with its level and keys as the code has them.

python -m tests.broker.log_page > docs/LOGS.md

Names, levels and keys are read from the source; what they mean stands here. An event that only one
of the two knows is an error.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "LOGS.md"
COMMAND = "python -m tests.broker.log_page > docs/LOGS.md"

INTRODUCTION = f"""# Logs

What the broker, its supervisor and its shards, says on standard error, one event a line. Generated:
`{COMMAND}`.

- A start that cannot go on ends with one line `rpk-py: ...` instead, and exit code 1.
- `--log-format json`, which is what `auto` means where standard error is no terminal: one JSON
  object a line. `message` is the event's name and never changes without a word in the changelog;
  what differs from case to case is in the other keys.
- `timestamp` (UTC) and `level` are in every event, `shard`, a node id, in every event of a shard.
  `reason` and `detail` are sentences for people; `exception` is a traceback.
- A line is a line: whatever a client calls itself, what it wrote is escaped, and a text of more
  than 1000 characters is cut. In the form `console` a traceback has lines of its own on a terminal;
  in a file it is one value, `traceback`.
- What a client can cause is limited: of each event five lines per 10 s by one address, twenty in
  all; fifty times that at the level debug. The next line then says in `suppressed` how many are
  missing, and `rpk_log_lines_suppressed_total` counts them.
- A log that cannot be written, a full disk or a closed pipe, loses lines and stops nothing.

## The level

`log_level` (`--log-level`, `RPK_LOG_LEVEL`) says from which level on events are
logged: debug, info, warning, error, or critical for none. While the broker runs it is the dynamic
config `log.level`:

```sh
rpk-py cluster config set log.level debug                    # the supervisor and every shard
kafka-configs.sh --bootstrap-server localhost:9092 --alter --entity-type brokers --entity-name 1 \\
  --add-config log.level=debug                               # shard 1 alone
kafka-configs.sh --bootstrap-server localhost:9092 --alter --entity-type brokers --entity-default \\
  --delete-config log.level                                  # back to --log-level
```

It takes effect with the next event, is kept in the data directory and, as every dynamic config,
wins over `--log-level` until it is deleted: at a restart too, from the moment that the metadata is
read. The supervisor follows what is set for all. A debug event costs its line; at any other level
it costs nothing per request.

## Levels

| level | meaning |
|---|---|
| debug | what clients and shards do, for who looks into one |
| info | as it should be |
| warning | something is refused, lost or slower than it could be; the broker goes on |
| error | something does not work: look at it |
"""

# Title -> event -> (meaning, what to do).
EVENTS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Start and stop": {
        "rpk-py is ready": (
            "all shards serve; where, on what disk, and what an acknowledgement is worth",
            "",
        ),
        "stopping": ("the signal of a graceful stop has come", ""),
        "stopped": ("everything is closed", ""),
        "stopping at once": (
            "a second signal: shards are killed",
            "nothing that was acknowledged is lost; the next start has more to read",
        ),
        "recovering": (
            "a start opens partitions and scans what no checkpoint covers: how many are open, how"
            " much is scanned, and about how long the rest takes",
            "wait; GET /v1/status/ready tells the same, and /v1/status/live answers 200 meanwhile",
        ),
        "stopped before it served": ("a shard was stopped while it recovered", ""),
        "shards are killed: they did not stop in time": (
            "a graceful stop took longer than `shutdown_timeout_s`",
            "see what the disk does; set it higher if stops of that length are normal",
        ),
        "the log level was changed": ("by the dynamic config `log.level`", ""),
        "shards that were killed do not end: the disk does not answer": (
            "the kernel lets no process go that waits for its disk; the supervisor has ended"
            " without them, and they end with their last operation",
            "see the disk; a start waits for them for `lock_wait_s`",
        ),
        "cannot write broker.json": (
            "who looks there for addresses and process ids finds none or old ones",
            "see that the data directory can be written",
        ),
        "cannot remove broker.json": ("it is left behind at a stop", "remove it, or start again"),
    },
    "What this machine does not have": {
        "the best disk backend is not used": (
            "writes take another way to the disk; `detail` says why and what that costs",
            "allow io_uring (seccomp, kernel.io_uring_disabled), or name a backend: --io-backend",
        ),
        "Direct I/O is not used: records pass through the page cache": (
            "the file system of the data directory refuses it",
            "put the data on XFS or ext4",
        ),
        "uvloop is not used": (
            "requests cost more CPU; `detail` says why",
            "install uvloop, or allow eventfd",
        ),
        "not every shard has a core": (
            "shards share cores, or may not be pinned to one; `detail` says which",
            "lower --smp, or say --overprovisioned if that is meant",
        ),
        "the limit of open files is low": (
            "connections are refused near it, and segments are closed and opened again",
            "raise ulimit -n, or LimitNOFILE of systemd",
        ),
        "the data directory is locked by a process that ends": (
            "the start waits for a broker that was killed, `lock_wait_s` at most",
            "wait",
        ),
        "retired segments of former shards cannot be deleted": (
            "they keep taking disk space",
            "see the reason; remove recycle/<node id> of shards that are no more",
        ),
    },
    "Consumer groups": {
        "groups loaded": ("this shard coordinates the groups of a partition from now on", ""),
        "groups rewritten": (
            "what is in force of a partition of __consumer_offsets was written anew, which bounds"
            " its log",
            "",
        ),
        "groups cannot be loaded": (
            "clients of the groups of a partition of __consumer_offsets find no coordinator",
            "see the reason; the partition is damaged, or its disk fails",
        ),
        "groups cannot be rewritten": (
            "the log of a partition of __consumer_offsets goes on growing",
            "see the reason; it is tried again",
        ),
        "a group record is left alone": (
            "a record of __consumer_offsets cannot be read; it is kept as it is",
            "see who wrote it",
        ),
        "a group task failed": ("an exception that nobody foresaw", "report the reason"),
        "the topic of committed offsets cannot be created": (
            "groups have no coordinator; the next client has it tried again",
            "see the reason",
        ),
    },
    "Shards": {
        "a shard is ready": ("it serves; the first time the banner says so", ""),
        "a shard ended": ("at a stop, with that exit code", ""),
        "a shard died and is started again": (
            "its partitions have no leader until it serves again; nothing acknowledged is lost",
            "see its own last events; signal 9 that nobody sent is the kernel out of memory",
        ),
        "a shard failed": ("an exception that nobody foresaw ended it", "report the traceback"),
        "a shard cannot run": (
            "not with this configuration; the broker stops",
            "see the shard's event before it",
        ),
        "a shard cannot be started yet": (
            "the metadata store or the system refuses; tried again",
            "see the reason",
        ),
        "a shard hangs: it is killed": (
            "it gave no sign of life for `shard_silent_s_max` while a change waited for it",
            "see the disk and the CPU at that time",
        ),
        "a shard does not serve: its partitions have no leader until it does": (
            "Metadata no longer names it",
            "see why: it may recover much, or die again and again",
        ),
        "a shard cannot be left out of Metadata": (
            "the metadata store refuses; tried again",
            "see the reason",
        ),
        "a shard broke the control channel": (
            "a bug, or memory that went bad; the shard is killed and started again",
            "report it",
        ),
        "the supervisor failed": ("a bug: the broker stops", "report the traceback"),
        "the metadata replica failed": ("a bug: the shard ends", "report the traceback"),
        "the event loop has a problem": (
            "it could not accept a connection, or a task failed that nobody waited for",
            "out of files: raise the limit; else report it",
        ),
        "an admin request failed": ("GET of that target was answered with 500", "report it"),
        "a metrics snapshot failed": ("this shard is missing in a scrape", "report it"),
    },
    "Clients": {
        "the client broke the protocol": (
            "a frame that cannot be decoded; the connection is closed",
            "see `software`: a bug of that client, or something that is none",
        ),
        "a frame of an impossible size: not a Kafka client, or not a plaintext one": (
            "it begins with no Kafka request (`begins_with`); the connection is closed",
            "a TLS client begins with 1603, HTTP with 474554 or 504f53; else it exceeds"
            " `frame_bytes_max`",
        ),
        "the client asked for an API or version that is not served": (
            "the connection is closed, as Kafka does",
            "use a newer client, or see docs/PROTOCOL.md for what is served",
        ),
        "a client asked for transactions, which this version does not have": (
            "it is refused for good",
            "remove transactional.id from the producer",
        ),
        "connection refused": (
            "the limit in `reason` is reached, or the broker stops",
            "raise it, or see why `peer` has so many",
        ),
        "too many bytes of partial frames on this shard": (
            "the connection that held the most of them is closed",
            "see what that client does; or raise `partial_frame_bytes_max`",
        ),
        "too many bytes of replies that clients do not take": (
            "the connection that left the most is closed",
            "a consumer that hangs; or raise `reply_bytes_max`",
        ),
        "produce with acks=0 failed": (
            "the connection is closed, since no reply can say so",
            "the error's name is in Kafka's list; the client looks for the leader again",
        ),
        "request failed": ("a bug: the connection is closed", "report the traceback"),
        "connection opened": ("", ""),
        "connection closed": ("`ended_by` client or broker", ""),
        "an idle connection is closed": ("silent for `connections_max_idle_s`", ""),
        "a request is answered with errors": (
            "the first of them, each with the topic and partition that it is about",
            "",
        ),
    },
    "Metadata and configs": {
        "a metadata request is answered": ("the controller has, that of a shard", ""),
        "a metadata request failed": ("a bug: the client gets an error", "report the traceback"),
        "a metadata commit failed": (
            "the change was refused to the client",
            "see the reason: the disk of metadata.db is full or fails",
        ),
        "a commit that failed is in the metadata store all the same": (
            "it counts; its client was told that it failed",
            "",
        ),
        "the metadata store cannot be opened yet": (
            "changes wait and then fail; records are served; tried again",
            "see what holds metadata.db",
        ),
        "a shard serves and Metadata cannot name it yet": (
            "the metadata store refuses; tried again",
            "see the reason",
        ),
        "applying a metadata change failed": (
            "a bug: the shard gets the whole state anew",
            "report the traceback",
        ),
        "a topic could not be created automatically": (
            "a client used a name that does not exist yet",
            "see the reason; or create it by hand",
        ),
        "these topic configs are stored but have no effect in this version": (
            "whoever set them may count on them",
            "see docs/CONFIGURATION.md for what has",
        ),
        "a dynamic broker config is ignored": (
            "it does not agree with what the broker was started with",
            "change either",
        ),
    },
    "Partitions and files": {
        "partition is offline": (
            "it could not be opened; its clients get KAFKA_STORAGE_ERROR, others are served",
            "follow the reason; `rpk-py debug wal` reads a segment",
        ),
        "a partition went offline": (
            "a write or a read failed while it was served, or a record is damaged",
            "see the disk; the next start opens it again",
        ),
        "the disk is slow": (
            "an operation is under way for `under_way_s` (0.0: for less than a moment), or"
            " `slow_writes` durable ones took half a second or more since the last such line; at"
            " most one line in 10 s. Only what waits for the disk waits",
            "see `fix`, and `rpk_write_seconds`, `rpk_disk_wait_seconds`",
        ),
        "the disk is quick again": ("nothing was slow for 10 s", "-"),
        "a partition did not close cleanly": ("the next start reads more", "see the reason"),
        "a torn tail is cut": (
            "the last write before a crash is incomplete; it was never acknowledged",
            "",
        ),
        "no checkpoint fits: the whole partition is scanned": ("this start takes longer", ""),
        "a checkpoint is damaged": ("the one before it is tried", "see the disk"),
        "an index is damaged": ("it is made again from the records", "see the disk"),
        "a checkpoint cannot be written": ("a crash would cost a longer scan", "see the disk"),
        "an index cannot be written": ("the next start makes it", "see the disk"),
        "a segment cannot be rewritten": (
            "it stays as it is; a damaged one is not tried again, others after 10 minutes",
            "see the reason; `rpk-py debug wal` tells what is wrong with a damaged one",
        ),
        "a log cannot be cleaned": ("it failed meanwhile, and has said so; else report it", ""),
        "a log was compacted": ("of every key the newest record is left", ""),
        "a dirty offset cannot be written": ("the next start compacts more again", "see the disk"),
        "padding was removed": ("sealed segments of a partition were rewritten densely", ""),
        "a log start cannot be written": (
            "DeleteRecords failed, or segments that have had their time stay",
            "see the disk",
        ),
        "old segments are deleted": (
            "they were older than retention.ms, or the partition larger than retention.bytes, or"
            " the disk had no room (storage.space.trim): `because_of`; the log start has moved",
            "",
        ),
        "retention was not enforced": (
            "segments that have had their time stay; the next check tries again",
            "see the disk; with an exception: report it, it is a bug",
        ),
        "a segment cannot be left": (
            "all of a partition has had its time, and there is no room for the new segment that"
            " has to exist before; it stays",
            "see the disk",
        ),
        "the disk is nearly full": (
            "what has had its time is deleted at once; with storage_space_trim closed segments of"
            " topics whose retention ends go before it",
            "`fix`; rpk_disk_free_bytes says how it goes on",
        ),
        "the disk is full: producers are refused": (
            "clients send again what is answered with KAFKA_STORAGE_ERROR; fetches, groups,"
            " deletions and metadata go on",
            "`fix`; the broker goes on by itself, and says so",
        ),
        "the disk has room: producers are served again": ("", ""),
        "the disk has room": ("more than the soft limit is free again", ""),
        "a partition waits for disk space": (
            "the file system refused room for what was appended: it waits in memory and is tried"
            " again every second, what is durable is served; others may wait, too, see"
            " rpk_partitions_waiting_for_space",
            "make room; where there is enough, a quota, or a lack of inodes",
        ),
        "the disk's space is not known": (
            "statvfs(2) of the data directory failed; what was known last counts",
            "see the disk",
        ),
        "looking at the disk's space failed": ("", "report it, it is a bug"),
        "a segment cannot be trimmed": ("it stays, others go", ""),
        "a segment has timestamps in the future": (
            "it stays until they are older than retention.ms, and so does all behind it",
            "find the producer whose clock is wrong; DeleteRecords removes it at once",
        ),
        "a segment cannot be cut at its end": ("it takes more space until the next start", ""),
        "a retired file cannot be reused": ("a new one is made", ""),
        "a file cannot be removed": ("it takes space; the next start tries again", "see the disk"),
        "the journal failed": (
            "a write to the shard's journal failed; its partitions are offline, and others go on",
            "see the disk, then restart the broker",
        ),
        "the journal is not used": (
            "its files cannot be made: many small partitions cost a write each",
            "see the disk",
        ),
        "journals are kept and not used": (
            "a partition is offline, or has no room on the disk, and some of what it acknowledged"
            " is only in a journal",
            "see why it is offline, or make room; put that right and restart the broker",
        ),
        "cannot remove a journal": ("it takes space; the next start tries again", "see the disk"),
        "a segment is locked by another process": (
            "a process that was killed still has writes under way, which are waited for",
            "if it does not end: end that process",
        ),
        "a partition of a deleted topic is discarded": (
            "it was deleted while this shard was down, and a new topic has its name",
            "",
        ),
        "cannot remove a deleted partition": ("it takes space; tried at the next start", ""),
        "a directory of no known topic is left alone": (
            "the metadata does not know it, and it holds records",
            "if metadata.db was lost restore it, else remove the directory",
        ),
        "the directory of a deleted partition is left alone": (
            "it holds files that are not its own",
            "remove it by hand",
        ),
        "cannot look at a directory": ("it may hold what is left of a topic", "see the reason"),
        "cannot look at the data directory": (
            "DescribeLogDirs was answered with an error",
            "see that it is mounted and can be read",
        ),
    },
}

# Methods -> (level, keys beside those of the call). An event is the first text that they are given.
_LEVELS = ("debug", "info", "warning", "error")
_OF_CLIENT = ("client_id", "peer", "software", "suppressed")
_CALLS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    **{level: (level, ()) for level in _LEVELS},
    "exception": ("error", ("exception",)),
    "say": ("info", ()),
    "report": ("warning", ("detail",)),
    "warn": ("warning", _OF_CLIENT),
    "drop": ("warning", _OF_CLIENT),
    "_close": ("warning", _OF_CLIENT),
    "warn_of": ("warning", ("peer", "suppressed")),
}
_TEXTS_OF_THEIR_OWN = {"rpk_py/cli/start.py"}  # of the command line, the only one that logs


@dataclass
class Event:
    """An event as the code has it."""

    levels: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    places: list[str] = field(default_factory=list)


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Name and content of every module that runs in a broker."""
    for path in sorted([*ROOT.glob("rpk_py/**/*.py"), *ROOT.glob("storage/*.py")]):
        name = str(path.relative_to(ROOT))
        if "/cli/" not in name or name in _TEXTS_OF_THEIR_OWN:
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def logged(modules: Iterable[tuple[str, ast.Module]]) -> tuple[dict[str, Event], list[str]]:
    """(every event that is logged, the places where its name is not a constant)"""
    events: dict[str, Event] = {}
    unnamed = []
    for name, tree in modules:
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            method, receiver, arguments = _parts(call)
            if method not in _CALLS or not arguments:
                continue
            first = arguments[1 if method in ("warn_of",) and len(arguments) > 1 else 0]
            place = f"{name}:{call.lineno}"
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                level, more = _CALLS[method]
                of_client = method == "debug" and not receiver.endswith("log")
                event = events.setdefault(first.value, Event())
                event.levels.add(level)
                event.keys.update(more, _OF_CLIENT if of_client else ())
                event.keys.update(_keys(call))
                event.places.append(place)
            elif receiver.endswith(("log", "context", "client")) and ast.unparse(first) != "event":
                unnamed.append(place)
    return events, unnamed


def _parts(call: ast.Call) -> tuple[str, str, list[ast.expr]]:
    """Method, what it is called on, arguments; also of partial(receiver.method, ...)."""
    function, arguments = call.func, call.args
    if isinstance(function, ast.Name) and function.id == "partial" and arguments:
        function, arguments = arguments[0], arguments[1:]
    if isinstance(function, ast.Attribute):
        return function.attr, ast.unparse(function.value), arguments
    return getattr(function, "id", ""), "", arguments


def _keys(call: ast.Call) -> Iterator[str]:
    for keyword in call.keywords:
        if keyword.arg is None:
            yield from _OF_CLIENT[::2]  # **self._told()
        else:
            yield "exception" if keyword.arg == "exc_info" else keyword.arg


def document() -> str:
    """The whole text of docs/LOGS.md."""
    events, _ = logged(sources())
    lines = [INTRODUCTION]
    for title, group in EVENTS.items():
        lines += [f"## {title}", ""]
        lines += ["| event | level | keys | meaning | what to do |", "|---|---|---|---|---|"]
        lines += [_row(name, events[name], *words) for name, words in group.items()]
        lines.append("")
    return "\n".join(lines)


def _row(name: str, event: Event, meaning: str, advice: str) -> str:
    levels = " or ".join(level for level in _LEVELS if level in event.levels)
    keys = ", ".join(f"`{key}`" for key in sorted(event.keys))
    return f"| {name} | {levels} | {keys} | {meaning} | {advice or '-'} |"


if __name__ == "__main__":
    print(document(), end="")
