"""rpk-py: a Kafka-compatible message broker, one shared-nothing process a core.

Processes: one supervisor (supervisor.py: controller, signals, restarts, admin HTTP) and the
shards that it forks (shard.py: network, partitions, disk).  Nothing is imported here, so that
`import rpk_py` costs nothing; see docs/ARCHITECTURE.md for the file map.
"""

from __future__ import annotations

__version__ = "0.1.0"
