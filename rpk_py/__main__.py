"""The command line's entry point: `rpk-py`, or `python -m rpk_py`."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from rpk_py.cli import root

    root.main(prog_name="rpk-py")


if __name__ == "__main__":
    main()
