"""Target: a connection to a broker that runs. What a real client says first, then anything.

The broker is a process of its own, started with the first input. An input names how its bytes are
cut; they follow a recorded handshake (ApiVersions, Metadata). A failure shows between inputs, so
every CHECK_EACH of them the broker must answer, have the processes it started with, and have
logged no error; what was sent since the last check is then kept for a look.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kafka_protocol.frame import encode_request
from kafka_protocol.messages.api_versions import ApiVersionsRequest
from kafka_protocol.messages.create_topics import CreatableTopic, CreateTopicsRequest
from kafka_protocol.messages.metadata import MetadataRequest
from tests.clients.broker import RunningBroker
from tests.clients.wire_client import WireClient
from tests.fuzz.target import Target, scratch
from tests.protocol import golden

CHECK_EACH = 250
ANSWER_S_MAX = 0.02  # what an input waits for; answers that come later are nobody's
SETTINGS = {"partitions_per_topic_max": 8, "partitions_max": 100, "segment_bytes": 1 << 20}
KEPT = Path("build/fuzz/live")
HANDSHAKE = encode_request(ApiVersionsRequest("fuzz", "1.0"), 3, 1, "fuzz") + encode_request(
    MetadataRequest(None), 9, 2, "fuzz"
)


class Live:
    """The broker of a run and what it was sent since it was last well."""

    def __init__(self) -> None:
        self._broker: RunningBroker | None = None
        self._directory = Path()
        self._sent: list[bytes] = []
        self._pids: list[int] = []
        self._log_pos = 0

    def talk(self, data: bytes) -> None:
        """One connection: handshake, then the input in pieces, then its end."""
        broker = self._broker or self._start()
        if len(data) < 2:
            return
        self._sent.append(data)
        step = data[0] or len(data)
        stream = data[1:]
        with suppress(OSError), socket.create_connection(("127.0.0.1", broker.port), 5) as sock:
            sock.sendall(HANDSHAKE)
            for pos in range(0, min(len(stream), 40 * step), step):
                sock.sendall(stream[pos : pos + step])
            sock.sendall(stream[40 * step :])
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(ANSWER_S_MAX)
            while sock.recv(65536):
                pass
        if len(self._sent) >= CHECK_EACH:
            self.check()

    def check(self) -> None:
        """The broker is well, or AssertionError and what it was sent is in KEPT."""
        broker = self._broker
        assert broker is not None
        try:
            with WireClient(broker) as client:
                assert client.ask(ApiVersionsRequest("check", "1.0"), 3).error_code == 0
                assert client.ask(MetadataRequest(None), 9).brokers
            assert broker.http_get("/v1/status/ready")[0] == 200
            assert broker.shard_pids == self._pids, "a shard died"
            with broker.log_path.open("rb") as log:
                log.seek(self._log_pos)
                lines = log.read().splitlines(keepends=True)
            lines = [line for line in lines if line.endswith(b"\n")]
            self._log_pos += sum(map(len, lines))
            for line in lines:
                event = json.loads(line) if line.startswith(b"{") else {"level": "raw"}
                assert event["level"] in ("debug", "info", "warning", "raw"), event
                assert "Traceback" not in line.decode(), line.decode()
        except (AssertionError, OSError) as error:
            shutil.rmtree(KEPT, ignore_errors=True)
            KEPT.mkdir(parents=True)
            for i, sent in enumerate(self._sent):
                (KEPT / f"{i:03d}.bin").write_bytes(sent)
            raise AssertionError(f"{error}; the last {len(self._sent)} are in {KEPT}") from error
        self._sent.clear()

    def _start(self) -> RunningBroker:
        self._directory = Path(tempfile.mkdtemp(dir=scratch()))
        log = self._directory / "broker.log"
        self._broker = RunningBroker(self._directory / "data", log, SETTINGS).start()
        with WireClient(self._broker) as client:
            names = ("orders", "t", "greetings")
            topics = [CreatableTopic(name, 2, 1) for name in names]
            client.ask(CreateTopicsRequest(topics, 10_000), 7)
        self._pids = self._broker.shard_pids
        self._log_pos = log.stat().st_size
        return self._broker

    def close(self) -> None:
        """Check a last time, stop the broker as an operator does, remove its files."""
        broker, self._broker = self._broker, None
        if broker is None:
            return
        try:
            self._broker = broker
            self.check()
            broker.stop()
        finally:
            self._broker = None
            broker.close()
            shutil.rmtree(self._directory, ignore_errors=True)


def seeds() -> Iterator[bytes]:
    frames = [len(c.frame).to_bytes(4, "big") + c.frame for c in golden.REQUESTS]
    for first, second in zip(frames, frames[5:], strict=False):
        yield b"\0" + first
        yield b"\x1d" + first + second


_LIVE = Live()
TARGETS = [
    Target("live", _LIVE.talk, seeds, seconds=10, outside=True, close=_LIVE.close),
]
