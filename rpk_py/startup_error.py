"""The error that ends a start: one line for the operator, exit code 1.

Which process: supervisor, before any shard exists.
"""

from __future__ import annotations


class StartupError(Exception):
    """The broker cannot start; the message is one line that says what and what to do."""
