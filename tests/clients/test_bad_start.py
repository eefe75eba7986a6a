"""Bad starts, as real processes: one line, a non-zero exit code, nothing left.

A broker runs all the while on ports and a directory of its own; no bad start beside it may do it
any harm. What can go on with less than it wants (tmpfs, few open files) starts and says so.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage.wal_format import SEGMENT_HEADER_BYTES, decode_segment_header, encode_segment_header
from tests.clients.broker import ROOT, RunningBroker, free_ports, wait_until
from tests.clients.records import plain
from tests.clients.topics import create_topic
from tests.clients.via_confluent import consume, produce

START_S_MAX = 20.0
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 24, 38, 22
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_IO_URING_SETUP = 425


def without_power_over_files() -> None:
    """In the child: root, too, obeys the permissions of files from the next exec on."""
    for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def without_io_uring() -> None:
    """In the child: a seccomp filter as container runtimes have one; io_uring_setup gets EPERM."""
    rows = [
        *((0x20, 0, 0, 0), (0x15, 0, 1, _IO_URING_SETUP)),
        *((0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *row) for row in rows))
    rules = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(program)))
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or _LIBC.prctl(_PR_SET_SECCOMP, 2, rules):
        os._exit(77)


@dataclass
class Site:
    """Where one case happens: `data` does not exist unless the case makes it."""

    root: Path
    other: RunningBroker
    template: Path  # a data directory that a broker has used and left
    arguments: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    python: list[str] = field(default_factory=list)
    in_child: Callable[[], None] | None = None

    @property
    def data(self) -> Path:
        return self.root / "data"

    def used(self) -> Path:
        """A copy of the used directory as the data directory."""
        shutil.copytree(self.template, self.data)
        return self.data

    def start(self) -> subprocess.CompletedProcess[str]:
        """Start and wait for the end.  Skips the test where the system refuses its premise."""
        port = free_ports(4)
        options = ["--data-dir", str(self.data), "--kafka-addr", f"127.0.0.1:{port}"]
        options += ["--admin-addr", f"127.0.0.1:{port + 3}", "--overprovisioned"]
        process = subprocess.Popen(
            [sys.executable, *self.python, "-m", "rpk_py", "start", *options, *self.arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=self.in_child,
        )
        try:
            out, err = process.communicate(timeout=START_S_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            raise AssertionError(f"it went on: {process.communicate()[1]}") from None
        if process.returncode == 77:
            pytest.skip("the system lets nobody take this right away")
        assert not processes_of_session(process.pid), "a bad start left processes behind"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def processes_of_session(session: int) -> list[int]:
    """The living processes that a start in a session of its own has made."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(directory.name))
    return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a broker that had a topic and was stopped."""
    directory = tmp_path_factory.mktemp("template")
    used = RunningBroker(directory / "data", directory / "broker.log")
    try:
        used.start()
        produce(used, create_topic(used), plain(5))
        used.stop()
    finally:
        used.close()
    return used.data_dir


@pytest.fixture
def site(tmp_path: Path, broker: RunningBroker, template: Path) -> Site:
    return Site(tmp_path, broker, template)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a file system here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def wrong_in_file(site: Site) -> None:
    file = site.root / "rpk.toml"
    file.write_text("smp = 1\nkafka_port = 99999\n")
    site.arguments += ["--config", str(file)]


def wrong_in_environment(site: Site) -> None:
    site.environment["RPK_FLUSH_MS"] = "soon"


def wrong_in_flag(site: Site) -> None:
    site.arguments += ["--smp", "0"]


def wrong_in_set(site: Site) -> None:
    site.arguments += ["--set", "flush_mss=5"]


def port_in_use(site: Site) -> None:
    site.arguments += ["--kafka-addr", site.other.address]


def port_of_a_later_shard_in_use(site: Site) -> None:
    site.arguments += ["--kafka-addr", f"127.0.0.1:{site.other.port - 1}", "--smp", "2"]


def admin_port_in_use(site: Site) -> None:
    site.arguments += ["--admin-addr", f"127.0.0.1:{site.other.admin_port}"]


def data_in_use(site: Site) -> None:
    site.arguments += ["--data-dir", str(site.other.data_dir)]


def not_writable(site: Site) -> None:
    site.data.mkdir(mode=0o500)
    site.in_child = without_power_over_files


def parent_not_writable(site: Site) -> None:
    parent = site.root / "parent"
    parent.mkdir(mode=0o500)
    site.arguments += ["--data-dir", str(parent / "data")]
    site.in_child = without_power_over_files


def a_file(site: Site) -> None:
    site.data.write_text("no directory")


def below_a_file(site: Site) -> None:
    site.data.write_text("no directory")
    site.arguments += ["--data-dir", str(site.data / "below")]


def newer_metadata(site: Site) -> None:
    connection = sqlite3.connect(site.used() / "metadata.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()


def garbage_metadata(site: Site) -> None:
    (site.used() / "metadata.db").write_bytes(b"garbage " * 1000)


def cut_metadata(site: Site) -> None:
    file = site.used() / "metadata.db"
    os.truncate(file, file.stat().st_size // 3)


def broken_metadata(site: Site) -> None:
    """The format's page is whole, what the tables hold is not."""
    file = site.used() / "metadata.db"
    data = file.read_bytes()
    file.write_bytes(data[:4096] + os.urandom(len(data) - 4096))


def metadata_without_its_facts(site: Site) -> None:
    connection = sqlite3.connect(site.used() / "metadata.db")
    connection.execute("DELETE FROM meta WHERE key = 'revision'")
    connection.commit()
    connection.close()


def metadata_changed_by_hand(site: Site) -> None:
    connection = sqlite3.connect(site.used() / "metadata.db")
    connection.execute("UPDATE topics SET configs = '{'")
    connection.commit()
    connection.close()


def lost_metadata(site: Site) -> None:
    (site.used() / "metadata.db").unlink()


def of_another_host(site: Site) -> None:
    site.used()
    site.arguments += ["--set", "host_id=3"]


def without_assertions(site: Site) -> None:
    site.python.append("-O")


def io_uring_refused(site: Site) -> None:
    site.arguments += ["--io-backend", "liburing"]
    site.in_child = without_io_uring


def ring_refused(site: Site) -> None:
    site.arguments += ["--io-backend", "ring"]
    site.in_child = without_io_uring


BAD: list[tuple[Callable[[Site], None], str]] = [
    (wrong_in_file, r"kafka_port=99999 in {root}/rpk.toml:2 is .*must be between 0 and 65535"),
    (wrong_in_environment, r"flush_ms=soon in RPK_FLUSH_MS is not valid: must be a whole number"),
    (wrong_in_flag, r"smp=0 in --smp is not valid: must be between 1 and 128"),
    (wrong_in_set, r"flush_mss=5 in --set is not .*; did you mean flush_ms\?"),
    (port_in_use, r"127.0.0.1:{port} is already in use by pid \d+ \(\S+\) .*--kafka-addr"),
    (port_of_a_later_shard_in_use, r"127.0.0.1:{port} is already in use by pid \d+ .*--kafka-addr"),
    (admin_port_in_use, r"127.0.0.1:{admin} is already in use by pid \d+ .*--admin-addr"),
    (data_in_use, r"the data directory .* is in use by another rpk-py, pid {pid} "),
    (not_writable, r"the data directory {root}/data is not writable for user \d+"),
    (parent_not_writable, r"cannot create the data directory {root}/parent/data: Permission den"),
    (a_file, r"the data directory {root}/data is not a directory|.*File exists"),
    (below_a_file, r"cannot create the data directory {root}/data/below: Not a directory"),
    (newer_metadata, r"{root}/data/metadata.db has format 99, .* start a newer rpk-py"),
    (garbage_metadata, r".*{root}/data/metadata.db: file is not a database .*backup"),
    (cut_metadata, r".*{root}/data/metadata.db.* malformed .*backup"),
    (broken_metadata, r".*{root}/data/metadata.db: .*backup"),
    (metadata_without_its_facts, r".*{root}/data/metadata.db: no revision in it, .*backup"),
    (metadata_changed_by_hand, r".*{root}/data/metadata.db: its contents are wrong, .*backup"),
    (lost_metadata, r"{root}/data/metadata.db is missing or was replaced by an empty one"),
    (of_another_host, r".*belongs to host_id 0, but host_id is 3"),
    (without_assertions, r".*without python -O"),
    (io_uring_refused, r"the disk backend liburing was asked for, but .*seccomp"),
    (ring_refused, r"the disk backend ring was asked for, but .*seccomp"),
]


@pytest.mark.parametrize(("prepare", "says"), BAD, ids=[case.__name__ for case, _ in BAD])
def test_a_bad_start_is_one_line_and_leaves_nothing(
    site: Site, prepare: Callable[[Site], None], says: str
) -> None:
    prepare(site)
    before = contents(site.root)
    topic = create_topic(site.other)
    ended = site.start()
    assert ended.returncode not in (0, None)
    assert ended.stdout == ""
    assert_one_line(ended.stderr, site, says)
    assert contents(site.root) == before
    # The broker beside it neither lost its files nor its clients.
    produce(site.other, topic, plain(3))
    assert [offset for offset, _ in consume(site.other, topic)] == [0, 1, 2]


def assert_one_line(text: str, site: Site, says: str) -> None:
    facts = {"root": site.root, "port": site.other.port, "pid": site.other.pid}
    pattern = "rpk-py: " + says.format(admin=site.other.admin_port, **facts)
    assert text.count("\n") == 1, text
    assert re.match(pattern, text), text


def contents(directory: Path) -> dict[str, int]:
    """Every file below a directory, with its size; a process id in a lock does not count."""
    return {
        str(path.relative_to(directory)): 0 if path.name == ".lock" else path.stat().st_size
        for path in directory.rglob("*")
        if path.is_file() or path.is_dir()
    }


@pytest.mark.parametrize("room_bytes", [0, 4096, 12 * 1024])
def test_a_full_disk_is_one_line_and_no_obstacle_later(
    site: Site, tiny_disk: Path, room_bytes: int
) -> None:
    filler = tiny_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    os.truncate(filler, filler.stat().st_size - room_bytes)
    site.arguments += ["--data-dir", str(tiny_disk / "data")]
    ended = site.start()
    assert ended.returncode == 1
    assert_one_line(ended.stderr, site, r".*{root}/disk.*full|.*No space left on device")
    filler.unlink()
    later = RunningBroker(tiny_disk / "data", site.root / "later.log", {"segment_bytes": 32768})
    try:
        later.start()
        later.stop()
    finally:
        later.close()


def test_on_tmpfs_it_starts_and_says_what_that_means(site: Site, tiny_disk: Path) -> None:
    memory = RunningBroker(tiny_disk / "data", site.root / "tmpfs.log")
    try:
        memory.start()
        [banner] = wait_until(
            lambda: [e for e in memory.log_events("info") if "durability" in e], "the banner"
        )
        assert banner["durability"].startswith("the data directory is on tmpfs, in memory")
        # Linux opens files of tmpfs for Direct I/O since 6.6 and refuses before.
        direct = "Direct I/O" if opens_direct(tiny_disk) else "buffered: no Direct I/O on this fil"
        assert f", {direct}" in banner["disk"]
        memory.stop()
    finally:
        memory.close()


def opens_direct(directory: Path) -> bool:
    try:
        os.close(os.open(directory / "probe", os.O_CREAT | os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    return True


def test_too_few_open_files_are_one_warning_that_says_what_it_costs(site: Site) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not 0 < limits[1] < 1_000_000:
        pytest.skip("the limit of open files is higher than any configuration needs")
    settings = {"connections_max": 1_000_000}
    running = RunningBroker(site.data, site.root / "few.log", settings)
    try:
        running.start()
        [warning] = running.log_events("warning")
        assert f"may open {limits[1]} files" in warning["detail"]
        assert "connections are refused" in warning["detail"]
        shard = Path(f"/proc/{running.shard_pids[0]}/limits").read_text()
        [row] = [line for line in shard.splitlines() if line.startswith("Max open files")]
        assert row.split()[3] == str(limits[1]), "the soft limit was not raised"
        running.stop()
    finally:
        running.close()


def test_a_segment_of_a_newer_format_takes_its_partition_offline_and_no_other(site: Site) -> None:
    running = RunningBroker(site.data, site.root / "newer.log")
    try:
        running.start()
        topic, whole = create_topic(running), create_topic(running)
        produce(running, topic, plain(3))
        produce(running, whole, plain(3))
        running.stop()
        [segment] = (site.data / f"{topic}-0").glob("*.wal")
        make_newer(segment)
        size = segment.stat().st_size
        running.start()
        assert running.metrics()["rpk_partitions_offline"] == 1
        assert [offset for offset, _ in consume(running, whole)] == [0, 1, 2]
        said = [e for e in running.log_events("error", "warning") if topic in str(e)]
        assert any("format version 99" in str(event) for event in said), said
        running.stop()
        assert segment.stat().st_size == size
    finally:
        running.close()


def make_newer(segment: Path) -> None:
    """Give a segment's header the version 99, its CRC right."""
    with segment.open("r+b") as file:
        block = bytearray(file.read(SEGMENT_HEADER_BYTES))
        header = decode_segment_header(memoryview(block))
        assert not isinstance(header, str)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("storage.wal_format.FORMAT_VERSION", 99)
            fresh = bytearray(SEGMENT_HEADER_BYTES)
            encode_segment_header(memoryview(fresh), header)
        file.seek(0)
        file.write(fresh)


def test_two_brokers_never_pin_to_the_same_core(tmp_path: Path) -> None:
    usable = len(os.sched_getaffinity(0))
    brokers = [
        RunningBroker(tmp_path / name, tmp_path / f"{name}.log", pinned=True, shards=shards)
        for name, shards in (("one", 1), ("two", usable))
    ]
    try:
        for running in brokers:
            running.start()
        pinned: list[int] = []
        floating = 0
        for running in brokers:
            for pid in running.shard_pids:
                cores = os.sched_getaffinity(pid)
                pinned += cores if len(cores) == 1 else []
                floating += len(cores) > 1 or usable == 1
        assert len(pinned) == len(set(pinned))
        assert floating >= 1, "there are more shards than cores"
        assert any("core of their own" in str(e) for e in brokers[1].log_events("warning"))
        for running in brokers:
            running.stop()
    finally:
        for running in brokers:
            running.close()
