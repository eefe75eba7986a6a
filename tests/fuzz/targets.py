"""All targets, by name."""

from __future__ import annotations

from tests.fuzz import codec, control, live, recovery, shard
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (codec, control, shard, recovery, live)
    for target in module.TARGETS
}
