"""The command line's entry point: `rpk-py`, or `python -m rpk_py`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line."""
    _occupy_standard_streams()
    from rpk_py.cli import root

    try:
        root.main(prog_name="rpk-py")
    except OSError as error:
        if not _output_fails():
            raise
        print(f"rpk-py: standard output cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(1)


def _output_fails() -> bool:
    """Whether standard output is what cannot be written; then the rest of it goes nowhere."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()  # with what could not be written, if that is kept
    except OSError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return True
    return False


def _occupy_standard_streams() -> None:
    """Where standard streams are closed, keep their numbers from what is opened next: a segment
    with the number of standard error would take what is written there. A command that is run
    still finds them closed: these are not inherited."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, "r", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    main()
