"""docs/PROTOCOL.md says what the code does."""

from __future__ import annotations

import pytest

from tests.protocol import table


def test_the_page_is_what_the_code_says() -> None:
    written = (table.ROOT / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
    assert written == table.document(), f"stale, run: {table.COMMAND}"


def test_deviations_are_one_paragraph_of_the_docstring() -> None:
    source = '"""Api.\n\nBehaviour:  a\nDeviations: first\n            second.\n\nMore.\n"""\n'
    assert table.deviations(source) == "first second."
    with pytest.raises(LookupError):
        table.deviations('"""Api.\n\nBehaviour:  a\n"""\n')
