"""docs/PROTOCOL.md, made from the tables that the code and its tests use.

    python -m tests.protocol.table > docs/PROTOCOL.md

test_table.py fails while the file says anything else. Versions come from api.SUPPORTED, deviations
from the "Deviations:" paragraph of each handler's docstring, proofs from the golden cases.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path

from kafka_protocol.api import REQUEST_BYTES_MAX, SUPPORTED, ApiSpec
from kafka_protocol.frame import HAND_DECODERS, HAND_ENCODERS
from kafka_protocol.schema import NEVER, info_of
from kafka_protocol.wire import ITEMS_MAX
from tests.protocol.golden import CASES
from tests.protocol.test_oracle import WITHOUT_ORACLE

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "python -m tests.protocol.table > docs/PROTOCOL.md"
MIB = 1 << 20

INTRODUCTION = f"""# The protocol

What of Apache Kafka's protocol is served, how it is proven, and where it differs from Kafka 4.3.
Generated: `{COMMAND}`.

## Versions

Versions are inclusive, and the served ones are those of Kafka 4.3. A request of a served API in
another version, or of another API, closes the connection; only ApiVersions is answered, with
UNSUPPORTED_VERSION. Produce is advertised from 0 although Kafka 4 and this broker refuse 0-2,
because librdkafka before 2.11.1 stops compressing where it is not (KAFKA-18659).
"""

PROOF = """
Every version is compared with the bytes of kio, whose codec is generated from Kafka's schemas, in
both directions ([test_oracle.py](../tests/protocol/test_oracle.py)). The golden frames were
recorded from the named clients or written by kio
([test_golden.py](../tests/protocol/test_golden.py)). The functions by hand equal the compiled
schemas ([test_parity.py](../tests/protocol/test_parity.py)).
[tests/clients](../tests/clients) runs kcat, kafka-python and confluent-kafka against the broker.
"""

LIMITS = f"""
## Limits

What exceeds one of these is not a valid request, and its connection is closed with a log line.

- A request has at most {ITEMS_MAX:,} array items and tagged fields, all its arrays together, or
  `request_items_max` of the configuration. Kafka compares each array only with the bytes that
  remain.
- A request other than Produce has at most {REQUEST_BYTES_MAX // MIB} MiB. For Produce
  `frame_bytes_max` of the configuration holds, as Kafka's `socket.request.max.bytes` does for all.
- Strings have at most 32,767 bytes, as in Kafka.

## Faults of clients

Met with while testing. They lie in the clients, whatever the broker.

- **librdkafka** (2.16) may deadlock when all brokers that it knows restart at once: it begins anew
  with its bootstrap servers while it waits for an OffsetForLeaderEpoch, and `close()` never returns
  (confluentinc/librdkafka#5476). `metadata.recovery.strategy=none` avoids it.
- **kafka-python** (3.0.12) may join a group and never read: a join that ends between two polls is
  forgotten. It joins anew, which disturbs the others, or never, where metadata that came late was
  why it joined. Polls with long timeouts avoid the one, `topics()` after `subscribe()` the other.
- **kafka-python** (3.0.12) never again fetches from a node that left the cluster while a fetch from
  it was due; it raises UnknownBrokerIdError, upon which a new consumer has to be made.

## Deviations

**All requests**: bytes that follow a request are refused and close the connection; Kafka ignores
them. librdkafka from 2.1.0 sends some when it asks for all topics with Metadata v9 or newer
(confluentinc/librdkafka#5049), and these are taken as Kafka takes them.

What only a broken or hostile client meets is in [tests/hostile](../tests/hostile/README.md), beside
the answers of a Kafka 4.1.
"""


def document() -> str:
    """The whole text of docs/PROTOCOL.md."""
    specs = sorted(SUPPORTED.values(), key=lambda spec: spec.key)
    parts = [
        INTRODUCTION,
        "\n",
        *(line + "\n" for line in _table(specs)),
        PROOF,
        *_not_compared(),
        LIMITS,
    ]
    for spec in specs:
        text = f"**{_title(spec)}**: {deviations(_handler(spec).read_text(encoding='utf-8'))}"
        parts.append("\n" + textwrap.fill(text, 100, break_on_hyphens=False) + "\n")
    return "".join(parts)


def deviations(source: str) -> str:
    """The "Deviations:" paragraph of a module's docstring on one line; LookupError without one."""
    docstring = ast.get_docstring(ast.parse(source)) or ""
    lines = iter(docstring.splitlines())
    for line in lines:
        if line.startswith("Deviations:"):
            text = [line.removeprefix("Deviations:").strip()]
            for more in lines:
                if not more.startswith(" "):
                    break
                text.append(more.strip())
            return " ".join(text)
    raise LookupError("no 'Deviations:' in the docstring")


def _table(specs: list[ApiSpec]) -> Iterator[str]:
    yield "| API | key | served | advertised | flexible from | by hand | golden frames | handler |"
    yield "|---|---|---|---|---|---|---|---|"
    for spec in specs:
        path = _handler(spec).relative_to(ROOT)
        cells = (
            _title(spec),
            str(int(spec.key)),
            f"{spec.min_version}-{spec.max_version}",
            f"{spec.advertised_min}-{spec.max_version}",
            "never" if spec.first_flexible == NEVER else str(spec.first_flexible),
            _by_hand(spec),
            _golden(spec),
            f"[{path.name}](../{path})",
        )
        yield f"| {' | '.join(cells)} |"


def _not_compared() -> Iterator[str]:
    for (key, version, kind), reason in sorted(WITHOUT_ORACLE.items()):
        yield f"\nNot compared with kio: {_title(SUPPORTED[key])} v{version} {kind}, {reason}.\n"


def _title(spec: ApiSpec) -> str:
    return spec.request.__name__.removesuffix("Request")


def _handler(spec: ApiSpec) -> Path:
    return ROOT / "rpk_py" / "handlers" / f"{spec.key.name.lower()}.py"


def _by_hand(spec: ApiSpec) -> str:
    kinds = ["request"] if spec.request in HAND_DECODERS else []
    kinds += ["response"] if spec.response in HAND_ENCODERS else []
    return ", ".join(kinds)


def _golden(spec: ApiSpec) -> str:
    sources: dict[str, set[int]] = {}
    for case in CASES:
        if info_of(type(case.message)).api_key == spec.key:
            sources.setdefault(case.source, set()).add(case.version)
    return "; ".join(
        f"{source}: v{', v'.join(map(str, sorted(versions)))}"
        for source, versions in sorted(sources.items())
    )


if __name__ == "__main__":
    print(document(), end="")
