"""Writes README.md: how to use the table, and where rpk-py means to differ from Apache Kafka.

python -m tests.hostile.page > tests/hostile/README.md
"""

from __future__ import annotations

from tests.hostile.deviations import DEVIATIONS
from tests.hostile.rows import ROWS

_HEAD = """\
# Hostile input

What may arrive on the Kafka port, and what has to come of it. Generated:
`python -m tests.hostile.page > tests/hostile/README.md`.

| file | what it holds |
|---|---|
| `rows_*.py` | the table, {rows} rows: name, bytes (or what builds them), outcome, source |
| `deviations.py` | what Apache Kafka 4.1 does otherwise, and why we do not |
| `fields.py`, `valid.py` | every field of every served request in every version, mutated |
| `target.py`, `observe.py` | topics on a broker; one connection, and what it came to |
| `test_rows.py`, `test_fields.py` | both against a broker of two shards |
| `test_bounded.py` | what others on the same shard notice of the largest requests |
| `test_restart.py` | epochs from before a restart |

After every row a good client on another connection writes a record and reads it back, and the
broker's log has no error and no traceback. A row ends with something sound on the same connection:
so "closed" is told from "lives on" without waiting for a time-out.

## Add a row

Put it into the `rows_*.py` of its subject:

```python
_fetch("isolation level 7", answer(FETCHED, 0), "KIP-98", isolation_level=7)
Row("HTTP", raw(b"GET / HTTP/1.1\\r\\n\\r\\n"), CLOSE, "NetworkReceive of Apache Kafka")
```

The outcome is `CLOSE`, `NO_ANSWER`, or `answer(path, value)`: a field of the answer and its value,
usually an error code. The name says what is hostile, the source why the outcome is right. Then

```sh
.venv/bin/pytest tests/hostile -k 'isolation and level'
```

and replay it on Apache Kafka. Where Kafka answers otherwise, clients have got used to that: answer
as it does, or write into `deviations.py` why not.

## Replay on Apache Kafka, or any other broker

```sh
.venv/bin/python -m tests.hostile --brokers 127.0.0.1:9092             # all rows
.venv/bin/python -m tests.hostile --brokers 127.0.0.1:9092 --differing # not as rpk-py answers
.venv/bin/python -m tests.hostile --brokers 127.0.0.1:9092 --only Fetch
```

It prints what the broker did, what rpk-py is expected to do, and what Kafka is known to do; it ends
with 1 if a row came out as neither (DIFFERENT). It makes its own topics and removes them, but use
a broker that nobody needs: `millions of records` is a batch of 6 KB that ends a Kafka with a heap
of 512 MB. A Kafka for it, in KRaft mode:

```sh
ID=$(bin/kafka-storage.sh random-uuid)
bin/kafka-storage.sh format --standalone -t $ID -c config/server.properties
KAFKA_HEAP_OPTS=-Xmx2g bin/kafka-server-start.sh config/server.properties
```

Rows about the wrong node need a second broker and are skipped without one. Auto creation of topics
must be off there (`auto.create.topics.enable=false`). Last replayed on Apache Kafka 4.1.0.

## Where rpk-py means to differ from Apache Kafka

UNKNOWN_SERVER_ERROR is what Kafka makes of an exception that nobody expected. "Neither an answer
nor a close" is a client that waits until its own time-out.

| row | rpk-py | Apache Kafka 4.1 | why |
|---|---|---|---|
"""


def page() -> str:
    """The text of README.md."""
    lines = []
    for row in ROWS:
        kafka = DEVIATIONS.get(row.name)
        if kafka is not None:
            lines.append(f"| {row.name} | {row.expect} | {kafka.expect} | {kafka.why} |\n")
    text = "".join(lines)
    for path in _PATHS:
        text = text.replace(path, "")
    return _HEAD.format(rows=len(ROWS)) + text


_PATHS = (
    "responses.0.partition_responses.0.error_code=",
    "responses.0.partitions.0.error_code=",
    "topics.0.partitions.0.error_code=",
    "topics.0.error_code=",
    "responses.0.error_code=",
    "results.0.error_code=",
    "error_code=",
)


if __name__ == "__main__":
    print(page(), end="")
