"""The command line's entry point: `rpk-py`, or `python -m rpk_py`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line."""
    _occupy_standard_streams()
    from rpk_py.cli import root

    root.main(prog_name="rpk-py")


def _occupy_standard_streams() -> None:
    """Where standard streams are closed, keep their numbers from what is opened next: a segment
    with the number of standard error would take what is written there. A command that is run
    still finds them closed: these are not inherited."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    main()
