"""The corpus is tried on every target, and both engines find a bug that was planted."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kafka_protocol import frame
from rpk_py import connection
from rpk_py.handlers import produce as produce_handler
from rpk_py.metadata import channel
from storage import recovery, timestamps
from tests.fuzz import corpus, mutation
from tests.fuzz.mutator import INPUT_BYTES_MAX, mutate
from tests.fuzz.target import Limits, Target, TooLarge, TooSlow
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import start_inputs

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", [name for name, t in TARGETS.items() if not t.outside])
def test_the_corpus_and_its_first_variants_fail_nowhere(name: str) -> None:
    target = TARGETS[name]
    inputs = start_inputs(target)
    assert len(inputs) >= 4
    run = mutation.fuzz(target, inputs, "test", 60, inputs_max=len(inputs) + 200)
    assert run.failure is None, run.failure and run.failure[0].hex()


def test_a_running_broker_survives_the_corpus() -> None:
    target = TARGETS["live"]
    inputs = start_inputs(target)
    run = mutation.fuzz(target, inputs, "test", 60, inputs_max=len(inputs) + 100)
    assert run.failure is None


def test_every_corpus_file_belongs_to_a_target_and_all_are_small() -> None:
    files = list(corpus.DIRECTORY.iterdir())
    assert {file.stem for file in files} <= set(TARGETS)
    assert sum(file.stat().st_size for file in files) < 1_000_000


def test_variants_follow_from_the_seed_and_are_bounded() -> None:
    data = [bytes(range(200)), b"x" * INPUT_BYTES_MAX]

    def variants(seed: int) -> list[bytes]:
        rng = random.Random(seed)
        return [mutate(rng.choice(data), data, rng) for _ in range(300)]

    assert variants(1) == variants(1)
    assert variants(1) != variants(2)
    assert len(set(variants(1))) > 250
    assert max(map(len, variants(1))) <= INPUT_BYTES_MAX


# -- negative controls: a planted bug is found -----------------------------------------------


def _no_proof(*_: Any) -> Any:
    """recovery._find_proof that finds none: every bad record is a torn tail."""
    return None
    yield


PLANTED: list[tuple[str, Any, str, Any]] = [
    ("requests", frame, "BAD_BYTES", (IndexError, UnicodeDecodeError)),
    ("responses", frame, "BAD_BYTES", (IndexError, UnicodeDecodeError)),
    ("records", timestamps, "LOOKED_INTO_RECORDS_MAX", 1),
    ("channel", channel, "ChannelError", KeyError),
    ("produce", produce_handler, "verify_crc", lambda *_: True),
    ("connection", connection, "encode_response", lambda *_: [b"\0\0\0\4none"]),
    ("storage", recovery, "body_crc_holds", lambda *_: True),
    ("storage", recovery, "_find_proof", _no_proof),
]


@pytest.mark.parametrize(("name", "module", "attribute", "bug"), PLANTED)
def test_the_engine_of_ours_finds_a_planted_bug(
    name: str, module: Any, attribute: str, bug: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, attribute, bug)
    run = mutation.fuzz(TARGETS[name], list(TARGETS[name].seeds()), "test", 20)
    assert run.failure is not None


def test_the_guided_engine_finds_a_planted_bug(tmp_path: Path) -> None:
    """In a process of its own, where a check behind four bytes that nobody guesses is wrong."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed here")
    code = f"""
import atheris, sys
sys.path.insert(0, {str(ROOT)!r})
with atheris.instrument_imports(include=["kafka_protocol"]):
    import kafka_protocol.frame as frame
from pathlib import Path
import tests.fuzz.targets as targets, tests.fuzz.worker as worker
@atheris.instrument_func
def run(data):
    if data[:2] == b"\\x57\\x41":
        if data[2:4] == b"\\x4c\\x21":
            raise RuntimeError("planted")
targets.TARGETS["planted"] = worker.Target("planted", run, lambda: [b"aaaaaaaa"])
worker.guided("planted", "1", 20, Path({str(tmp_path)!r}), Path({str(tmp_path / "found")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    facts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    found = Path(facts[-1]["failure"])
    assert found.read_bytes()[:4] == b"WAL!"


def test_an_input_that_takes_too_long_is_a_finding() -> None:
    def run(data: bytes) -> None:
        sum(range(3_000_000))

    with Limits(Target("slow", run, list, seconds=0.001)) as limits, pytest.raises(TooSlow):
        limits.try_input(b"")


def test_an_input_that_takes_too_much_memory_is_a_finding() -> None:
    def run(data: bytes) -> None:
        bytearray(400 << 20)

    with Limits(Target("large", run, list)) as limits, pytest.raises(TooLarge):
        limits.try_input(b"")
