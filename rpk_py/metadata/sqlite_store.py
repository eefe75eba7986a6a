"""Cluster metadata in one SQLite file, `<data-dir>/metadata.db`.

Which process: supervisor only, in the controller's commit thread; never in a shard.
Invariants: rollback journal and synchronous=EXTRA, so a commit that returned survives a power
cut; locking_mode=EXCLUSIVE, so no other process reads or writes beside us (a WAL shared between
processes is known to corrupt on some mounts); every commit moves `revision` by exactly one.
The connection is closed around every fork: SQLite must not be carried across one.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from rpk_py.metadata.state import (
    DELETED_TOPICS_MAX,
    BrokerConfigsChanged,
    Change,
    ClusterState,
    Delta,
    PartitionsChanged,
    PartitionState,
    TopicConfigsChanged,
    TopicCreated,
    TopicDeleted,
    TopicState,
)
from rpk_py.metadata.store import StoreError

FORMAT_VERSION = 2  # PRAGMA user_version; raise it with a migration

_BROKER_CONFIGS = (
    "CREATE TABLE broker_configs (node TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL,"
    " PRIMARY KEY (node, name)) WITHOUT ROWID"
)
_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE topics (topic_id BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
    " configs TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE partitions (topic_id BLOB NOT NULL, idx INTEGER NOT NULL,"
    " leader INTEGER NOT NULL, leader_epoch INTEGER NOT NULL, replicas TEXT NOT NULL,"
    " isr TEXT NOT NULL, PRIMARY KEY (topic_id, idx)) WITHOUT ROWID",
    "CREATE TABLE deleted_topics (seq INTEGER PRIMARY KEY, topic_id BLOB NOT NULL)",
    _BROKER_CONFIGS,
)
# What brings a file of the format before to the one that is the key.
_MIGRATIONS = {
    2: (
        "ALTER TABLE broker_configs RENAME TO broker_configs_1",  # of all nodes, without a column
        _BROKER_CONFIGS,
        "INSERT INTO broker_configs SELECT '', name, value FROM broker_configs_1",
        "DROP TABLE broker_configs_1",
    ),
}
_BUSY_S = 5.0  # another process may hold the file for a moment: a backup, or a shell
# What a file that is damaged, or was changed by hand, can lead to while it is read.
_BAD_FILE = (sqlite3.Error, AssertionError, LookupError, TypeError, ValueError)


class SqliteStore:
    """A MetadataStore in one file; see the module for its guarantees.

    path    the database file; its directory exists
    host_id of this broker; a data directory belongs to one host id for life
    new_id  16 random bytes that make a cluster id on first use
    check_new  called before a new file is filled; what it raises leaves the file as it was
    """

    def __init__(
        self,
        path: Path,
        host_id: int,
        new_id: Callable[[], bytes],
        check_new: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._host_id = host_id
        self._new_id = new_id
        self._check_new = check_new
        self._was_open = False
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Connect, take the exclusive lock, create or check the format.  Raises StoreError."""
        assert self._connection is None
        try:
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._connection = connection
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA synchronous=EXTRA")
            with self._transaction() as cursor:
                (version,) = cursor.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    self._create(cursor)
                elif version > FORMAT_VERSION:
                    raise StoreError(
                        f"{self._path} has format {version}, this version of rpk-py reads formats"
                        f" up to {FORMAT_VERSION}: start a newer rpk-py on this data directory"
                    )
                self._check_host(cursor)  # before anything of it is changed
                if 0 < version < FORMAT_VERSION:
                    _migrate(cursor, version)
            self._was_open = True
        except _BAD_FILE as error:
            self._give_up()
            raise StoreError(f"cannot open {self._path}: {_reason(error)}") from error
        except BaseException:
            self._give_up()
            raise

    def _give_up(self) -> None:
        """Close, and take back the empty file that opening may have made."""
        self.close()
        if not self._was_open and self._path.is_file() and self._path.stat().st_size == 0:
            self._path.unlink()

    def _create(self, cursor: sqlite3.Cursor) -> None:
        if self._was_open:
            # An empty one would give out producer ids that are in use.
            raise StoreError(f"{self._path} was removed while the broker runs: restore it")
        self._check_new()
        for statement in _SCHEMA:
            cursor.execute(statement)
        cluster_id = base64.urlsafe_b64encode(self._new_id()).decode().rstrip("=")
        cursor.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [
                ("cluster_id", cluster_id),
                ("host_id", str(self._host_id)),
                ("revision", "0"),
                ("next_producer_id", "0"),
            ],
        )
        cursor.execute(f"PRAGMA user_version={FORMAT_VERSION}")

    def _check_host(self, cursor: sqlite3.Cursor) -> None:
        stored = int(_meta(cursor, "host_id"))
        if stored != self._host_id:
            raise StoreError(
                f"the data directory belongs to host_id {stored}, but host_id is {self._host_id}:"
                f" set host_id to {stored}"
            )

    def close(self) -> None:
        """Disconnect and release the lock; does nothing when closed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def load(self) -> ClusterState:
        """The state as of the last commit; without nodes.  Raises StoreError."""
        try:
            with self._transaction() as cursor:
                state = ClusterState(int(_meta(cursor, "revision")), _meta(cursor, "cluster_id"))
                rows = cursor.execute("SELECT topic_id, name, configs FROM topics ORDER BY name")
                for topic_id, name, configs in rows.fetchall():
                    state.add_topic(TopicState(name, topic_id, [], json.loads(configs)))
                rows = cursor.execute("SELECT * FROM partitions ORDER BY topic_id, idx")
                for topic_id, index, leader, leader_epoch, replicas, isr in rows:
                    partitions = state.topics_by_id[topic_id].partitions
                    assert index == len(partitions)
                    ids = [*_decode_ids(replicas)], [*_decode_ids(isr)]
                    partitions.append(PartitionState(index, leader, leader_epoch, *ids))
                for node, name, value in cursor.execute("SELECT * FROM broker_configs"):
                    state.broker_configs.setdefault(node, {})[name] = value
                for (topic_id,) in cursor.execute(
                    "SELECT topic_id FROM deleted_topics ORDER BY seq"
                ):
                    state.note_deleted(topic_id)
                return state
        except _BAD_FILE as error:
            raise StoreError(f"cannot read {self._path}: {_reason(error)}") from error

    def commit(self, delta: Delta) -> None:
        """Persist one delta, durably; see MetadataStore."""
        try:
            with self._transaction() as cursor:
                revision = int(_meta(cursor, "revision"))
                if delta.revision != revision + 1:
                    raise StoreError(
                        f"{self._path} is at revision {revision}, not below {delta.revision}"
                    )
                for change in delta.changes:
                    _store_change(cursor, change)
                _set_meta(cursor, "revision", str(delta.revision))
        except sqlite3.Error as error:
            raise StoreError(f"cannot write {self._path}: {error}") from error

    def allocate_producer_ids(self, count: int) -> int:
        """The first of a fresh block of producer ids, durably; see MetadataStore."""
        try:
            with self._transaction() as cursor:
                first = int(_meta(cursor, "next_producer_id"))
                _set_meta(cursor, "next_producer_id", str(first + count))
                return first
        except sqlite3.Error as error:
            raise StoreError(f"cannot write {self._path}: {error}") from error

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Cursor]:
        assert self._connection is not None
        cursor = self._connection.cursor()
        cursor.execute("BEGIN EXCLUSIVE")
        try:
            yield cursor
            cursor.execute("COMMIT")
        except BaseException:
            # After an I/O error SQLite may have rolled back by itself already.
            if self._connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise


def _migrate(cursor: sqlite3.Cursor, version: int) -> None:
    """Within the transaction that opens the file, so it is of one format or of the other."""
    for target in range(version + 1, FORMAT_VERSION + 1):
        for statement in _MIGRATIONS[target]:
            cursor.execute(statement)
    cursor.execute(f"PRAGMA user_version={FORMAT_VERSION}")


# A few different lists of node ids stand in thousands of rows.


@lru_cache(maxsize=1024)
def _encode_ids(node_ids: tuple[int, ...]) -> str:
    return json.dumps(node_ids)


@lru_cache(maxsize=1024)
def _decode_ids(text: str) -> tuple[int, ...]:
    return tuple(json.loads(text))


def _meta(cursor: sqlite3.Cursor, key: str) -> str:
    row = cursor.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise sqlite3.DatabaseError(f"no {key} in it, so this is not a metadata file of rpk-py")
    value: str = row[0]
    return value


def _reason(error: Exception) -> str:
    """Why a file cannot be opened or read, and what to do if its contents are wrong."""
    if isinstance(error, sqlite3.OperationalError):  # the system's fault, not the file's
        name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")  # SQLITE_IOERR_FSYNC and the like
        return f"{error} ({name})"
    text = str(error) if isinstance(error, sqlite3.Error) else f"its contents are wrong, {error!r}"
    return f"{text} (restore it from a backup)"


def _set_meta(cursor: sqlite3.Cursor, key: str, value: str) -> None:
    cursor.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))


def _store_change(cursor: sqlite3.Cursor, change: Change) -> None:
    if isinstance(change, TopicCreated):
        topic = change.topic
        cursor.execute(
            "INSERT INTO topics VALUES (?, ?, ?)",
            (topic.topic_id, topic.name, json.dumps(topic.configs)),
        )
        _store_partitions(cursor, topic.topic_id, topic.partitions)
    elif isinstance(change, TopicDeleted):
        cursor.execute("DELETE FROM partitions WHERE topic_id = ?", (change.topic_id,))
        cursor.execute("DELETE FROM topics WHERE topic_id = ?", (change.topic_id,))
        cursor.execute("INSERT INTO deleted_topics (topic_id) VALUES (?)", (change.topic_id,))
        cursor.execute(
            "DELETE FROM deleted_topics WHERE seq <= (SELECT MAX(seq) FROM deleted_topics) - ?",
            (DELETED_TOPICS_MAX,),
        )
    elif isinstance(change, PartitionsChanged):
        _store_partitions(cursor, change.topic_id, list(change.partitions))
    elif isinstance(change, TopicConfigsChanged):
        cursor.execute(
            "UPDATE topics SET configs = ? WHERE topic_id = ?",
            (json.dumps(dict(change.configs)), change.topic_id),
        )
    elif isinstance(change, BrokerConfigsChanged):
        cursor.execute("DELETE FROM broker_configs WHERE node = ?", (change.node,))
        cursor.executemany(
            "INSERT INTO broker_configs VALUES (?, ?, ?)",
            [(change.node, name, value) for name, value in change.configs.items()],
        )
    # NodesChanged is not stored: which shards live is known anew at every start.


def _store_partitions(
    cursor: sqlite3.Cursor, topic_id: bytes, partitions: list[PartitionState]
) -> None:
    cursor.executemany(
        "INSERT OR REPLACE INTO partitions VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                topic_id,
                partition.index,
                partition.leader,
                partition.leader_epoch,
                _encode_ids(tuple(partition.replicas)),
                _encode_ids(tuple(partition.isr)),
            )
            for partition in partitions
        ],
    )
