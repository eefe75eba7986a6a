"""Start rpk-py in a Python that lacks some functions or constants of the system.

    python -m tests.machines.without os.O_DIRECT os.fdatasync -- start --data-dir data

As built against another libc, or an older one. The names are deleted before anything of rpk-py
is imported. `ctypes.statx` stands for a libc without that function.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Sequence
from typing import Any


class _LibraryWithout(ctypes.CDLL):
    """A library that seems to lack the functions in `missing`."""

    missing: frozenset[str] = frozenset()

    def __getattr__(self, name: str) -> Any:
        if name in self.missing:
            raise AttributeError(f"undefined symbol: {name}")
        return super().__getattr__(name)


def delete(names: Sequence[str]) -> None:
    """Delete each MODULE.NAME; KeyError or AttributeError for one that is not there anyway."""
    functions = set()
    for module_name, _, name in (full.rpartition(".") for full in names):
        if module_name == "ctypes":
            functions.add(name)
        else:
            delattr(importlib.import_module(module_name), name)
    _LibraryWithout.missing = frozenset(functions)
    ctypes.CDLL = _LibraryWithout  # type: ignore[misc]


def main(arguments: Sequence[str]) -> None:
    """MODULE.NAME ... -- arguments of rpk-py."""
    end = arguments.index("--")
    delete(arguments[:end])
    sys.argv = ["rpk-py", *arguments[end + 1 :]]
    from rpk_py.__main__ import main as rpk_py

    rpk_py()


if __name__ == "__main__":
    main(sys.argv[1:])
