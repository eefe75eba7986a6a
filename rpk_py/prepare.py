"""What a broker acquires before its first shard is forked: directory, disk, ports, metadata, cores.

Which process: supervisor, before any loop or thread exists.  Invariants: the data directory is
locked before anything in it is looked at; when this is done the leader epochs are committed, so
shards may serve, and the metadata store is closed, so the process may fork.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rpk_py import cores, data_dir, listeners
from rpk_py.config import Config
from rpk_py.log_setup import Log
from rpk_py.metadata.controller import encode_snapshot, start_leadership_blocking
from rpk_py.metadata.sqlite_store import SqliteStore
from rpk_py.metadata.state import ClusterState, NodeState
from rpk_py.metadata.store import StoreError
from rpk_py.startup_error import StartupError
from storage.backend import settle_backend
from storage.disk import open_segment
from storage.errors import DiskUnavailable

METADATA_FILE = "metadata.db"
STATUS_FILE = "broker.json"
_PARTITION_DIRECTORY = re.compile(r".+-\d+")  # <topic>-<partition>


@dataclass(slots=True)
class Prepared:
    """Everything that is acquired before the first fork."""

    config: Config
    state: ClusterState
    store: SqliteStore
    kafka: list[socket.socket]
    admin: socket.socket
    lock_fd: int
    cores: list[int | None]
    core_fds: list[int]


def prepare(config: Config, log: Log) -> Prepared:
    """Claim all that a broker needs, and commit its leader epochs.

    Raises: StartupError  something cannot be had; nothing runs yet
    """
    made = data_dir.prepare(config.data_dir)
    lock_fd = data_dir.lock(
        config.data_dir,
        config.lock_wait_s,
        partial(log.report, "the data directory is locked by a process that ends"),
    )
    try:
        return _prepare_locked(config, lock_fd, log)
    except StartupError:
        data_dir.undo(made)
        raise


def _prepare_locked(config: Config, lock_fd: int, log: Log) -> Prepared:
    _remove_status(config.data_dir / STATUS_FILE)
    config, lost = _settle_disk(config)
    kafka = listeners.bind_shards(config)
    admin = listeners.bind(
        config.admin_host, config.admin_port, config.admin_connections_max, "--admin-addr"
    )
    store = SqliteStore(
        config.data_dir / METADATA_FILE,
        config.host_id,
        random_id,
        check_new=lambda: _refuse_unknown_partitions(config.data_dir),
    )
    try:
        store.open()
        state = store.load()
        state.nodes = {node.node_id: node for node in _nodes(config, kafka)}
        start_leadership_blocking(store, state, config.node_ids)
    except StoreError as error:
        raise StartupError(str(error)) from None
    store.close()
    _check_size(state, config.control_frame_bytes_max)
    try:
        data_dir.drop_unused_pools(config.data_dir, config.node_ids)
    except OSError as error:
        log.warning("retired segments of former shards cannot be deleted", reason=str(error))
    if lost is not None:
        log.report("the best disk backend is not used", lost)
    _warn_of_buffered_io(config.data_dir, log)
    claimed, core_fds = cores.claim(config, partial(log.report, "not every shard has a core"))
    return Prepared(config, state, store, kafka, admin, lock_fd, claimed, core_fds)


def _remove_status(path: Path) -> None:
    """Nothing of a broker before must look like this one's.  Raises: StartupError"""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StartupError(f"cannot remove {path}: {error.strerror} (remove it by hand)") from None


def _warn_of_buffered_io(path: Path, log: Log) -> None:
    """Say it where the file system takes no Direct I/O; any regular file of it tells."""
    fd, direct = open_segment(path / data_dir.LOCK_NAME)
    os.close(fd)
    if not direct:
        log.warning(
            "Direct I/O is not used: records pass through the page cache",
            reason=f"the file system of {path} refuses O_DIRECT",
            cost="as durable, every write is O_DSYNC; the kernel copies each record and keeps it",
        )


def _check_size(state: ClusterState, frame_bytes_max: int) -> None:
    """Every shard is sent the whole metadata.  Raises: StartupError  it could not be"""
    size = len(encode_snapshot(state))
    if size > frame_bytes_max:
        raise StartupError(
            f"the metadata takes {size} bytes as a message, and control_frame_bytes_max is"
            f" {frame_bytes_max} (set it to {2 * size} or more)"
        )


def _refuse_unknown_partitions(path: Path) -> None:
    """Without metadata there can be no partitions.  Where there are some, starting would serve a
    broker without its topics, and a topic of the same name would be created anew.

    Raises: StartupError
    """
    found = sorted(
        directory.name
        for directory in path.iterdir()
        if _PARTITION_DIRECTORY.fullmatch(directory.name) and any(directory.glob("*.wal"))
    )
    if found:
        raise StartupError(
            f"{path / METADATA_FILE} is missing or was replaced by an empty one: it does not know"
            f" {len(found)} partition directories here, like {found[0]}"
            " (restore it from a backup, or move these directories away)"
        )


def random_id() -> bytes:
    """16 random bytes, for ids."""
    return os.urandom(16)


def _settle_disk(config: Config) -> tuple[Config, str | None]:
    """What works for all shards. Returns: (the configuration to run with, what was lost or None)"""
    try:
        backend, lost = settle_backend(config.io_backend, config.data_dir)
    except DiskUnavailable as error:
        raise StartupError(f"{error} (--io-backend)") from None
    return dataclasses.replace(config, io_backend=backend), lost


def _nodes(config: Config, kafka: list[socket.socket]) -> list[NodeState]:
    nodes = []
    for index, listener in enumerate(kafka):
        port = listener.getsockname()[1]
        if config.advertise_port is not None:
            port = config.advertise_port + index
        host = config.advertise_host
        rack = config.rack or socket.gethostname()
        nodes.append(NodeState(config.node_id(index), host, port, rack))
    return nodes
