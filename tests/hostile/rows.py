"""The table: all rows, whose names are unique."""

from __future__ import annotations

from tests.hostile import (
    rows_batches,
    rows_bulk,
    rows_consumer_groups,
    rows_data,
    rows_frames,
    rows_groups,
    rows_topics,
)
from tests.hostile.table import Row

ROWS: list[Row] = [
    *rows_frames.ROWS,
    *rows_batches.ROWS,
    *rows_data.ROWS,
    *rows_topics.ROWS,
    *rows_groups.ROWS,
    *rows_consumer_groups.ROWS,
    *rows_bulk.ROWS,
]

assert len({row.name for row in ROWS}) == len(ROWS), "a row's name stands for it"
