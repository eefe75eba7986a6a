"""The times that a soak reports, on accounts whose times are known."""

from __future__ import annotations

from tests.crash.soak_report import Ack, Crash, report_times

SHARD_OF = (0, 1)  # partition -> shard
CRASH = Crash("kill shard 0", (0,), killed_s=10.0, dead_s=10.01, back_s=10.2)


def ack(partition: int, sent_s: float, acked_s: float) -> Ack:
    return (partition, 0, 0, sent_s, acked_s)


PROBES = [
    ack(0, 9.99, 10.005),  # answered before the kill took effect
    ack(0, 10.005, 10.4),  # sent before it: proves nothing about the new process
    ack(0, 10.1, 10.41),
    ack(0, 10.2, 10.5),
    ack(1, 5.0, 5.004),
    ack(1, 10.05, 10.058),
    ack(1, 10.3, 10.306),
    ack(1, 10.9, 11.9),  # soon after: neither
    ack(1, 20.0, 20.002),
]


def lines() -> dict[str, str]:
    found = report_times({"probe": PROBES}, "probe", SHARD_OF, [CRASH])
    return {line[:66].strip(): " ".join(line[66:].split()) for line in found}


def test_the_first_new_acknowledgement_is_of_a_record_sent_after_the_death() -> None:
    text = lines()["a shard killed: first new acknowledgement, probe"]
    assert text == "p50 410.0 p99 410.0 max 410.0 ms of 1"


def test_unaffected_shards_are_those_that_were_not_killed_until_the_others_are_back() -> None:
    text = lines()["unaffected shards while another is down: latency"]
    assert text == "p50 8.0 p99 8.0 max 8.0 ms of 2"


def test_calm_is_away_from_every_crash() -> None:
    text = lines()["all shards while nothing is down: latency"]
    assert text == "p50 4.0 p99 4.0 max 4.0 ms of 2"


def test_what_was_never_acknowledged_again_is_no_time() -> None:
    found = report_times({"probe": PROBES[:2]}, "probe", SHARD_OF, [CRASH])
    assert not any("first new" in line for line in found)
