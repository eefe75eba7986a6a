"""What others on the same shard notice of a request that is as large as it may be."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import pytest

from kafka_protocol.messages.api_versions import ApiVersionsRequest
from tests.hostile.conftest import BrokerLog
from tests.hostile.observe import observe
from tests.hostile.rows_bulk import ROWS
from tests.hostile.table import Row
from tests.hostile.target import Socket, Target

# On an idle machine nothing holds the loop for more than 0.25 s. Two broker processes, this one and
# other tests share the cores here, so only what is out of all proportion fails.
WAIT_S_MAX = 1.5
_PAUSE_S = 0.002


class Pinger:
    """A client on another connection that asks all the time. A context manager.

    worst_s  the longest that it waited for an answer
    """

    def __init__(self, target: Target) -> None:
        self.worst_s = 0.0
        self._socket = Socket(target.address)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._ended.wait(_PAUSE_S):
            asked_s = time.monotonic()
            self._socket.ask(ApiVersionsRequest("ping", "1"), 3)
            self.worst_s = max(self.worst_s, time.monotonic() - asked_s)

    def __enter__(self) -> Pinger:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._socket.close()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_others_are_served_meanwhile(row: Row, target: Target, broker_log: BrokerLog) -> None:
    sent = row.send(target)
    with Pinger(target) as pinger:
        seen = observe(target, sent, row.deadline_s)
    assert seen.agrees_with(row.expect, target), seen.describe(row.expect)
    print(f"{row.name}: {seen.took_s * 1e3:.0f} ms, others waited {pinger.worst_s * 1e3:.0f} ms")
    assert pinger.worst_s < WAIT_S_MAX
    target.check_health()
    assert broker_log.complaints() == []
