"""Fixtures of the command line's tests: the brokers of the client tests."""

from tests.clients.conftest import broker, own_broker, pytest_runtest_makereport

__all__ = ["broker", "own_broker", "pytest_runtest_makereport"]
