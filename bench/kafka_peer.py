"""Apache Kafka beside us, from a directory of its jars: one node in KRaft mode on free ports.

Its settings are those of Kafka's own server.properties (config/server.properties of the
distribution) where they differ from the defaults of the classes. `java` is the one in PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.process import free_ports, process_cpu_s, process_pss_mb
from bench.wire import METADATA_VERSION, Connection
from kafka_protocol.messages.metadata import MetadataRequest

HEAP = ("-Xmx512m",)  # half of what its own script gives it, and enough for all that is asked here
READY_S_MAX = 60.0
RETRY_S = 0.05
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=16
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
"""


class KafkaPeer:
    """One Kafka process; ports and data stay when it is started again."""

    def __init__(self, jars: Path, directory: Path) -> None:
        port = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        self._log = directory / "kafka.log"
        self._java = ("java", *HEAP, "-cp", f"{jars}/*")
        self._settings = directory / "server.properties"
        data = directory / "data"
        self._settings.write_text(
            _PROPERTIES.format(port=port, controller=port + 1, data=data).lstrip()
        )
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if cluster.startswith("-"):
            cluster = "A" + cluster[1:]  # or it is taken for an option
        command = ("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._settings))
        subprocess.run([*self._java, *command], check=True, capture_output=True)
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        deadline_s = time.monotonic() + READY_S_MAX
        with self._log.open("ab") as log:
            command = [*self._java, "kafka.Kafka", str(self._settings)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while True:
            try:
                connection = Connection(self.address)
                connection.ask(MetadataRequest([]), METADATA_VERSION)
                connection.close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline_s:
                    self.close()
                    raise SystemExit(
                        f"Kafka did not start: {self._log.read_text()[-500:]}"
                    ) from None
                time.sleep(RETRY_S)

    def cpu_s(self) -> float:
        """User and system seconds so far."""
        return process_cpu_s(self.process.pid)

    def pss_mb(self) -> tuple[float, float]:
        """Proportional memory, as Broker.pss_mb has it: there is no supervisor."""
        return process_pss_mb(self.process.pid), 0.0

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it, however it stands."""
        if self.process.poll() is None:
            self.kill()


@contextmanager
def running_kafka(jars: Path, parent: Path | None) -> Iterator[KafkaPeer]:
    """A Kafka on a fresh data directory, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="rpk-bench-kafka-", dir=parent))
    peer = None
    try:
        peer = KafkaPeer(jars.resolve(), directory)
        yield peer
    finally:
        if peer is not None:
            peer.close()
        shutil.rmtree(directory, ignore_errors=True)
