"""The inputs that a target starts from: golden cases, what fuzzing found, and old failures.

Golden cases come from the tests that own them (each target's `seeds`). The rest is one text file a
target, corpus/<target>.txt: an input a line in hexadecimal, `# ` for remarks. A line that begins
with a name and a colon is an input that failed once: the name says what was wrong, and the line
stays, so that test_fuzz.py tries it for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

DIRECTORY = Path(__file__).parent / "corpus"
_KEPT_BYTES_MAX = 4096  # of one input that is added: small ones say as much


def found(target: str) -> dict[str, bytes]:
    """The file's inputs by name; those without a name are called by their line."""
    path = DIRECTORY / f"{target}.txt"
    inputs: dict[str, bytes] = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
        if line and not line.startswith("#"):
            name, colon, text = line.rpartition(":")
            inputs[name if colon else f"line {number}"] = bytes.fromhex(text)
    return inputs


def replace_found(target: str, inputs: Iterable[bytes]) -> int:
    """Replace what has no name by `inputs`, smallest first; returns how many are kept."""
    path = DIRECTORY / f"{target}.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.startswith("#") or ":" in line]
    new = {data.hex() for data in inputs if len(data) <= _KEPT_BYTES_MAX}
    path.write_text("\n".join([*kept, *sorted(new, key=lambda text: (len(text), text)), ""]))
    return len(new)
