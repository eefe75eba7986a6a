"""docs/METRICS.md, made from the table that the broker counts and renders by.

python -m tests.broker.metrics_page > docs/METRICS.md
"""

from __future__ import annotations

from pathlib import Path

from rpk_py.metric_table import GROUPS
from rpk_py.metric_types import Metric

PAGE = Path(__file__).resolve().parents[2] / "docs" / "METRICS.md"
COMMAND = "python -m tests.broker.metrics_page > docs/METRICS.md"

INTRODUCTION = f"""# Metrics

What `GET /metrics` on the admin address answers: the whole broker, all shards, in one scrape, in
Prometheus' text format. Generated: `{COMMAND}`.

- `shard` is the shard's node id.
- Every counter starts at 0 with its process, a shard's when the shard is started again, as
  Prometheus expects of counters (`rate` and `increase` cope). What the supervisor counts goes on.
- A shard that does not answer within `metrics_timeout_s` is left out, and
  `rpk_shard_up{{shard="..."}}` is 0 for it. The scrape timeout must be longer than that.
- Four scrapes run at a time; one more is answered with 503 and may be tried again.
- A histogram has `_bucket`, `_sum` and `_count`, a summary `_sum` and `_count`. The 99th percentile
  of Produce over 5 minutes:
  `histogram_quantile(0.99, sum by (le) (rate(rpk_request_seconds_bucket{{api="Produce"}}[5m])))`
- Values are read a slice of the partitions at a time, so those of two partitions can be some
  milliseconds apart.
"""


def document() -> str:
    """The whole text of docs/METRICS.md."""
    lines = [INTRODUCTION]
    for group in GROUPS:
        lines += [f"## {group.title}", ""]
        if group.text:
            lines += [group.text, ""]
        lines.append("| metric | type | labels | unit | meaning | what to do when it is high |")
        lines.append("|---|---|---|---|---|---|")
        lines += [_row(metric) for metric in group.metrics]
        lines.append("")
    return "\n".join(lines)


def _row(metric: Metric) -> str:
    labels = ", ".join(metric.labels)
    cells = (f"`{metric.name}`", metric.kind, labels, unit(metric), metric.help, metric.advice)
    return f"| {' | '.join(cells)} |"


def unit(metric: Metric) -> str:
    """Of the values, as the name says it; a dash for a number of things."""
    words = metric.name.removesuffix("_total").split("_")
    return next((unit for unit in ("seconds", "bytes") if unit in words[-2:]), "-")


if __name__ == "__main__":
    print(document(), end="")
