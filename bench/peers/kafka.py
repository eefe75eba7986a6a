"""Apache Kafka: one node in KRaft mode, from its Maven artifacts.

Its settings are those of Kafka's own server.properties (config/server.properties of the
distribution) where they differ from the defaults of the classes, its JVM's are those of
kafka-run-class.sh and kafka-server-start.sh. `java` and `mvn` are the ones in PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.server import end, start, tree_cpu_s, wait_until_ready
from bench.process import free_ports, process_pss_mb

JARS = Path(__file__).parent / "kafka-jars"  # not in git
POM = Path(__file__).parent / "pom.xml"
HEAP = ("-Xmx1G", "-Xms1G")
_JVM = (
    *("-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:MaxInlineLevel=15"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
    *("-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"),
)
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


def resolve_jars() -> Path | None:
    """The folder of Kafka's jars, filled by Maven on first use; None where that fails."""
    if any(JARS.glob("kafka_*.jar")):
        return JARS
    if shutil.which("mvn") is None or shutil.which("java") is None:
        return None
    command = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
    done = subprocess.run([*command, f"-DoutputDirectory={JARS}"], check=False)
    return JARS if done.returncode == 0 and any(JARS.glob("kafka_*.jar")) else None


def java(jars: Path, main: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
    """The command of one of Kafka's Java programs."""
    return ["java", *options, "-cp", f"{jars}/*", main, *arguments]


class KafkaServer:
    """One Kafka process; ports and data stay when it is started again.

    `properties` are further lines of server.properties.
    """

    has_disk = True

    def __init__(self, directory: Path, jars: Path, properties: tuple[str, ...] = ()) -> None:
        port = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        self.version = next(jars.glob("kafka_*.jar")).stem.rpartition("-")[2]
        self._jars = jars
        self._log = directory / "kafka.log"
        self._settings = directory / "server.properties"
        text = _PROPERTIES.format(port=port, controller=port + 1, data=directory / "data")
        self._settings.write_text(text.lstrip() + "\n".join(properties))
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if cluster.startswith("-"):
            cluster = "A" + cluster[1:]  # or it is taken for an option
        arguments = ("format", "-t", cluster, "-c", str(self._settings))
        command = java(jars, "kafka.tools.StorageTool", *arguments)
        subprocess.run(command, check=True, capture_output=True)

    def start(self) -> None:
        """See Server.start."""
        command = java(self._jars, "kafka.Kafka", str(self._settings), options=(*HEAP, *_JVM))
        self.process = start(command, self._log)
        self.pid = self.process.pid
        wait_until_ready(self.address, self.process, self._log)

    def cpu_s(self) -> float:
        """User and system seconds so far."""
        return tree_cpu_s(self.pid)

    def pss_mb(self) -> tuple[float, float]:
        """Proportional memory, as Broker.pss_mb has it: there is no supervisor."""
        return process_pss_mb(self.pid), 0.0

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """See Server.stop."""
        end(self.process)


@contextmanager
def running_kafka(jars: Path, parent: Path | None) -> Iterator[KafkaServer]:
    """A Kafka on a fresh data directory, gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="rpk-bench-kafka-", dir=parent))
    peer = None
    try:
        peer = KafkaServer(directory, jars.resolve())
        peer.start()
        yield peer
    finally:
        if peer is not None:
            peer.stop()
        shutil.rmtree(directory, ignore_errors=True)
