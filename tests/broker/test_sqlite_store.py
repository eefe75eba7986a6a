"""Cluster metadata on disk: commits, reopening, formats, and who else may hold the file."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from rpk_py.metadata.placement import led_by
from rpk_py.metadata.sqlite_store import SqliteStore
from rpk_py.metadata.state import (
    BrokerConfigsChanged,
    Delta,
    NodesChanged,
    NodeState,
    PartitionsChanged,
    TopicConfigsChanged,
    TopicCreated,
    TopicDeleted,
    TopicState,
    apply,
)
from rpk_py.metadata.store import StoreError

ID_A = bytes(range(16))
ID_B = bytes(range(1, 17))


def make_store(path: Path, host_id: int = 0) -> SqliteStore:
    return SqliteStore(path / "metadata.db", host_id, lambda: os.urandom(16))


@pytest.fixture
def store(tmp_path: Path):
    store = make_store(tmp_path)
    store.open()
    yield store
    store.close()


def created(name: str, topic_id: bytes) -> TopicCreated:
    partitions = [led_by(0, 0, 0), led_by(1, 1, 0)]
    return TopicCreated(TopicState(name, topic_id, partitions, {"segment.bytes": "20000"}))


def test_a_new_file_has_a_cluster_id_of_22_characters_and_revision_0(store: SqliteStore) -> None:
    state = store.load()
    assert state.revision == 0
    assert len(state.cluster_id) == 22
    assert not state.topics


def test_what_was_committed_is_there_after_opening_again(
    store: SqliteStore, tmp_path: Path
) -> None:
    deltas = [
        Delta(1, (created("a", ID_A), created("b", ID_B))),
        Delta(2, (PartitionsChanged(ID_A, (led_by(1, 0, 1), led_by(2, 0, 0))),)),
        Delta(3, (TopicConfigsChanged(ID_A, {}), BrokerConfigsChanged("1", {"flush.ms": "1"}))),
        Delta(4, (TopicDeleted("b", ID_B), NodesChanged((NodeState(0, None, 9092),)))),
    ]
    expected = store.load()
    for delta in deltas:
        store.commit(delta)
        apply(expected, delta)
    expected.nodes = {}  # not stored
    store.close()
    again = make_store(tmp_path)
    again.open()
    assert again.load() == expected
    again.close()


@pytest.mark.parametrize("revision", [0, 2])
def test_a_commit_on_top_of_another_revision_is_refused(store: SqliteStore, revision: int) -> None:
    before = store.load()
    with pytest.raises(StoreError, match="revision 0"):
        store.commit(Delta(revision, (created("a", ID_A),)))
    assert store.load() == before


def test_a_commit_that_fails_in_the_middle_leaves_nothing_behind(store: SqliteStore) -> None:
    before = store.load()
    with pytest.raises(StoreError):
        store.commit(Delta(1, (created("a", ID_A), created("a", ID_B))))  # a name twice
    assert store.load() == before
    store.commit(Delta(1, (created("a", ID_A),)))


def test_producer_ids_are_never_given_out_twice(store: SqliteStore, tmp_path: Path) -> None:
    assert store.allocate_producer_ids(1000) == 0
    store.close()
    again = make_store(tmp_path)
    again.open()
    assert again.allocate_producer_ids(1000) == 1000
    again.close()


def test_a_second_process_cannot_open_the_file(store: SqliteStore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "metadata.db", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT * FROM meta")
    other.close()


def test_a_newer_format_is_refused_with_what_to_do(store: SqliteStore, tmp_path: Path) -> None:
    store.close()
    raw = sqlite3.connect(tmp_path / "metadata.db")
    raw.execute("PRAGMA user_version=99")
    raw.close()
    with pytest.raises(StoreError, match=r"format 99.*newer rpk-py"):
        make_store(tmp_path).open()


FORMAT_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE topics (topic_id BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, configs TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE partitions (topic_id BLOB NOT NULL, idx INTEGER NOT NULL, leader INTEGER NOT NULL,
    leader_epoch INTEGER NOT NULL, replicas TEXT NOT NULL, isr TEXT NOT NULL,
    PRIMARY KEY (topic_id, idx)) WITHOUT ROWID;
CREATE TABLE deleted_topics (seq INTEGER PRIMARY KEY, topic_id BLOB NOT NULL);
CREATE TABLE broker_configs (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('cluster_id', 'abcdefghijklmnopqrstuv'), ('host_id', '0'),
    ('revision', '7'), ('next_producer_id', '3000');
INSERT INTO topics VALUES (X'000102030405060708090a0b0c0d0e0f', 'a', '{"segment.bytes": "20000"}');
INSERT INTO partitions VALUES (X'000102030405060708090a0b0c0d0e0f', 0, 0, 4, '[0]', '[0]');
INSERT INTO deleted_topics (topic_id) VALUES (X'0102030405060708090a0b0c0d0e0f10');
INSERT INTO broker_configs VALUES ('flush.ms', '9'), ('flush.bytes', '5');
PRAGMA user_version=1;
"""


def write_format_1(path: Path) -> None:
    raw = sqlite3.connect(path / "metadata.db")
    raw.executescript(FORMAT_1)
    raw.close()


def test_a_file_of_format_1_is_brought_to_the_current_one_with_all_it_holds(
    tmp_path: Path,
) -> None:
    write_format_1(tmp_path)
    store = make_store(tmp_path)
    for _ in range(2):  # what was migrated opens like any other
        store.open()
        state = store.load()
        store.close()
        assert (state.revision, state.cluster_id) == (7, "abcdefghijklmnopqrstuv")
        expected = TopicState("a", ID_A, [led_by(0, 0, 4)], {"segment.bytes": "20000"})
        assert state.topics == {"a": expected}
        assert list(state.deleted_topic_ids) == [ID_B]
        assert state.broker_configs == {"": {"flush.ms": "9", "flush.bytes": "5"}}
    store.open()
    assert store.allocate_producer_ids(1) == 3000
    store.commit(Delta(8, (BrokerConfigsChanged("3", {"flush.ms": "1"}),)))
    assert store.load().broker_configs["3"] == {"flush.ms": "1"}
    store.close()


@pytest.mark.parametrize("statement", ["CREATE TABLE", "INSERT INTO", "DROP TABLE", "PRAGMA user"])
def test_a_migration_that_does_not_end_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    write_format_1(tmp_path)
    connect = sqlite3.connect

    class Failing(sqlite3.Cursor):
        def execute(self, sql: str, *args):
            if sql.startswith(statement) and ("broker_configs" in sql or "=" in sql):
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *args)

    class Connection(sqlite3.Connection):
        def cursor(self):
            return super().cursor(Failing)

    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Connection))
    with pytest.raises(StoreError, match="disk I/O error"):
        make_store(tmp_path).open()
    monkeypatch.undo()
    raw = sqlite3.connect(tmp_path / "metadata.db")
    assert raw.execute("PRAGMA user_version").fetchone() == (1,)
    rows = raw.execute("SELECT name, value FROM broker_configs ORDER BY name").fetchall()
    assert rows == [("flush.bytes", "5"), ("flush.ms", "9")]
    raw.close()
    store = make_store(tmp_path)
    store.open()
    assert store.load().broker_configs[""]["flush.ms"] == "9"
    store.close()


def test_a_data_directory_belongs_to_one_host_id(store: SqliteStore, tmp_path: Path) -> None:
    store.close()
    with pytest.raises(StoreError, match="belongs to host_id 0"):
        make_store(tmp_path, host_id=3).open()


def test_a_new_file_is_filled_only_if_nothing_speaks_against_it(tmp_path: Path) -> None:
    def refuse() -> None:
        raise RuntimeError("not here")

    path = tmp_path / "metadata.db"
    for _ in range(2):  # a file that was refused is still a new one
        with pytest.raises(RuntimeError, match="not here"):
            SqliteStore(path, 0, lambda: bytes(16), refuse).open()
    for store in (make_store(tmp_path), SqliteStore(path, 0, lambda: bytes(16), refuse)):
        store.open()
        store.close()


def test_a_file_that_vanished_since_it_was_open_is_not_made_anew(
    store: SqliteStore, tmp_path: Path
) -> None:
    store.close()
    (tmp_path / "metadata.db").unlink()
    with pytest.raises(StoreError, match="removed while the broker runs"):
        store.open()


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "metadata.db").write_bytes(b"no database at all, but long enough" * 40)
    with pytest.raises(StoreError, match=r"cannot open .*metadata\.db"):
        make_store(tmp_path).open()


def test_commits_are_synced_and_not_in_wal_mode(store: SqliteStore) -> None:
    assert store._connection is not None
    pragma = store._connection.execute
    assert pragma("PRAGMA journal_mode").fetchone() == ("delete",)
    assert pragma("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
    assert pragma("PRAGMA locking_mode").fetchone() == ("exclusive",)


def test_only_the_newest_deleted_topics_are_remembered(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("state", "sqlite_store"):
        monkeypatch.setattr(f"rpk_py.metadata.{module}.DELETED_TOPICS_MAX", 3)
    expected = store.load()
    ids = [bytes([i]) * 16 for i in range(1, 6)]
    for i, topic_id in enumerate(ids):
        topic = TopicState("t", topic_id, [led_by(0, 0, 0)])
        delta = Delta(i + 1, (TopicCreated(topic), TopicDeleted("t", topic_id)))
        store.commit(delta)
        apply(expected, delta)
    assert list(store.load().deleted_topic_ids) == list(expected.deleted_topic_ids) == ids[2:]
