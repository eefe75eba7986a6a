"""Every row of the table against a broker process, and a good client after each.

Those of rows_bulk.py are in test_bounded.py, which also measures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.conftest import BrokerLog
from tests.hostile.deviations import DEVIATIONS
from tests.hostile.observe import observe
from tests.hostile.page import page
from tests.hostile.rows import ROWS
from tests.hostile.rows_bulk import ROWS as BULK
from tests.hostile.table import HANG, Expect, Row, answer, raw
from tests.hostile.target import Target

HEALTHY_S = 1.0  # a good client's write and read, on a machine that also runs other tests


@pytest.mark.parametrize("row", [row for row in ROWS if row not in BULK], ids=lambda row: row.name)
def test_what_arrives_has_the_outcome_of_its_row(
    row: Row, target: Target, broker_log: BrokerLog
) -> None:
    seen = observe(target, row.send(target), row.deadline_s)
    assert seen.agrees_with(row.expect, target), (
        f"expected {row.expect}, seen {seen.describe(row.expect)}; {row.source}"
    )
    assert target.check_health() < HEALTHY_S
    assert broker_log.complaints() == []


def test_every_deviation_is_of_a_row_and_a_difference() -> None:
    expected = {row.name: row.expect for row in ROWS}
    assert DEVIATIONS.keys() <= expected.keys()
    assert [name for name, kafka in DEVIATIONS.items() if kafka.expect == expected[name]] == []


def test_the_page_is_what_the_code_says() -> None:
    written = (Path(__file__).parent / "README.md").read_text()
    assert written == page(), "run: python -m tests.hostile.page > tests/hostile/README.md"


def test_nothing_may_hang_here() -> None:
    assert not any(row.expect.hangs for row in ROWS)


def test_an_outcome_that_is_another_is_told_from_what_was_expected(target: Target) -> None:
    seen = observe(target, raw(b"\xff" * 8)(target))
    assert seen.agrees_with(Expect(closes=True), target)
    for other in (HANG, Expect(), answer(), answer("error_code", 3)):
        assert not seen.agrees_with(other, target), str(other)
