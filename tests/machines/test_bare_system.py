"""A bare Debian: no compiler, no build tools, no /proc, nothing but Python. The wheel must do.

debootstrap makes the system in a directory; the wheel and what it needs are installed there from
binary wheels only, without an index. Then a broker and its own command line run in it by chroot,
which takes away /proc, /sys and /dev as well. Needs root, debootstrap and a Debian mirror.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.backend import settle_backend
from storage.errors import DiskUnavailable
from tests.clients import via_confluent
from tests.clients.broker import ROOT, RunningBroker
from tests.clients.records import numbered, plain
from tests.clients.topics import create_topic

MIRROR = "http://deb.debian.org/debian"
SUITE = "bookworm"  # has Python 3.11, the oldest that we support
PYTHON_VERSION = "3.11"
PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAKE_S_MAX = 600
STEP_S_MAX = 300


def _run(*command: object, timeout_s: float = STEP_S_MAX, stdin: str = "") -> str:
    """Standard output of a command that must succeed."""
    ended = subprocess.run(
        [str(word) for word in command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout[-3000:]}{ended.stderr[-3000:]}"
    return ended.stdout


def _inside(root: Path) -> tuple[str, ...]:
    """What comes before a command that runs in the bare system, with an environment as bare."""
    return ("/usr/bin/env", "-i", f"PATH={PATH}", "HOME=/root", "/usr/sbin/chroot", str(root))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel and those of all its dependencies, none of which was built here."""
    directory = tmp_path_factory.mktemp("wheels")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
    _run(*pip, "wheel", "--no-deps", "--wheel-dir", directory, ROOT)
    (ours,) = directory.glob("rpk_py-*.whl")
    _run(
        *(*pip, "download", "--only-binary", ":all:", "--dest", directory),
        *("--python-version", PYTHON_VERSION, ours),
    )
    return directory


@pytest.fixture(scope="module")
def bare_system(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root directory of a bare Debian in which rpk-py is installed, in /rpk."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    root = tmp_path_factory.mktemp("bare")
    _run(
        *("debootstrap", "--variant=minbase", "--include=python3,python3-venv", SUITE, root),
        MIRROR,
        timeout_s=MAKE_S_MAX,
    )
    # debootstrap mounts these to configure packages, and may leave them.
    for name in ("proc", "sys", "dev/pts", "dev"):
        subprocess.run(["umount", "--lazy", root / name], capture_output=True)
    shutil.copytree(wheels, root / "wheels")
    inside = _inside(root)
    _run(*inside, "python3", "-m", "venv", "/rpk")
    _run(
        *(*inside, "/rpk/bin/pip", "install", "-q", "--no-index", "--find-links", "/wheels"),
        *("--only-binary", ":all:", "rpk-py"),
    )
    yield root
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def broker(bare_system: Path, tmp_path: Path) -> Iterator[RunningBroker]:
    """A broker in it, started; the host's clients reach it by the loopback address."""
    # The same path inside and outside, so that the tests read the status file.
    inner = Path("/srv") / tmp_path.name / "data"
    running = RunningBroker(
        bare_system / inner.relative_to("/"),
        tmp_path / "broker.log",
        command=(*_inside(bare_system), "/rpk/bin/rpk-py"),
        data_dir_argument=inner,
    )
    try:
        running.start()
        yield running
    finally:
        running.close()


def test_the_bare_system_is_bare(bare_system: Path) -> None:
    assert not list((bare_system / "proc").iterdir())
    for tool in ("gcc", "cc", "make", "git", "curl"):
        assert (
            shutil.which(tool, path=os.pathsep.join(f"{bare_system}{p}" for p in PATH.split(":")))
            is None
        )


def test_without_a_compiler_what_was_acknowledged_survives_a_kill(
    broker: RunningBroker,
) -> None:
    topic = create_topic(broker)
    records = plain(100)
    via_confluent.produce(broker, topic, records)
    broker.kill()
    broker.start()
    assert via_confluent.consume(broker, topic) == numbered(records)
    broker.stop()
    assert broker.log_events("error", "critical") == []
    disks = {event["disk"] for event in broker.log_events("info") if "disk" in event}
    assert disks == {f"{_disk_of_this_kernel()}, Direct I/O"}


def _disk_of_this_kernel() -> str:
    """What the broker must find without a binding: a container may refuse io_uring."""
    try:
        settle_backend("ring")
    except DiskUnavailable:
        return "threads"
    return "io_uring (built in)"


def test_the_command_line_in_it_makes_a_round_trip(
    bare_system: Path, broker: RunningBroker
) -> None:
    rpk = (*_inside(bare_system), "/rpk/bin/rpk-py")
    where = ("--brokers", broker.address)
    _run(*rpk, "topic", "create", "letters", *where)
    _run(*rpk, "topic", "produce", "letters", *where, stdin="a\nb\nc\n")
    text = _run(*rpk, "topic", "consume", "letters", "-o", ":end", "-f", "%o %v\\n", *where)
    assert text == "0 a\n1 b\n2 c\n"
