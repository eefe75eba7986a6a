"""bench/RESULTS.md says what was measured, and names every row that is behind."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bench.compare import report
from bench.compare.columns import CACHING, KAFKA, KAFKA_FLUSH, RPK_PY, TANSU


def results(**rows: dict[str, dict[str, float]]) -> report.Results:
    """Results of one round."""
    rounds = {
        name.replace("_", "-"): {column: [figures] for column, figures in columns.items()}
        for name, columns in rows.items()
    }
    data: dict[str, Any] = {"rows": rounds, "limits": {}, "facts": {}, "versions": {}}
    return report.Results(data | {"failures": {}})


def figures(**of: float) -> dict[str, float]:
    """A round in which neither core was full."""
    busy = {"generator_cpu_s": 0.5, "broker_cpu_s": 0.5, "wall_s": 1.0}
    return busy | {name.replace("p999", "p99.9"): value for name, value in of.items()}


def test_the_page_is_made_from_the_results() -> None:
    assert report.PAGE.read_text() == report.page(json.loads(report.RESULTS.read_text()))


def test_what_is_slower_or_dearer_is_behind() -> None:
    found = results(
        pipelined={
            RPK_PY: figures(per_s=100, cpu_us=20),
            KAFKA_FLUSH: figures(per_s=50, cpu_us=10),
            KAFKA: figures(per_s=200, cpu_us=40),
        }
    )
    told = {(one.figure, one.peer): one for one in found.verdicts()}
    assert {key: one.behind for key, one in told.items()} == {
        ("per_s", KAFKA_FLUSH): False,
        ("per_s", KAFKA): True,
        ("cpu_us", KAFKA_FLUSH): True,
        ("cpu_us", KAFKA): False,
    }
    assert told["per_s", KAFKA].ratio == pytest.approx(0.5)


def test_latency_beside_a_peer_that_does_not_sync_is_that_of_write_caching() -> None:
    latencies = figures(p50_ms=1, p99_ms=2, p999_ms=3)
    found = results(
        end_to_end_1000={
            RPK_PY: latencies,
            CACHING: figures(p50_ms=0.5, p99_ms=1, p999_ms=1),
            TANSU: figures(p50_ms=0.8, p99_ms=1.5, p999_ms=2),
        }
    )
    assert {(one.ours, one.behind) for one in found.verdicts()} == {(CACHING, False)}


def test_where_the_generator_is_the_limit_cpu_decides() -> None:
    full = {"generator_cpu_s": 0.97, "wall_s": 1.0}
    found = results(
        spread_200={
            RPK_PY: figures(per_s=90, cpu_us=1) | full,
            KAFKA: figures(per_s=100, cpu_us=2) | full,
        }
    )
    assert [(one.figure, one.behind) for one in found.verdicts()] == [("cpu_us", False)]
