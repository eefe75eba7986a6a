"""`rpk-py debug wal` on real files: whole, torn, damaged, foreign, and under a broker's hands."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kafka_protocol.record_batch import Record, build_batch
from rpk_py.cli import debug as module
from rpk_py.cli.debug import debug
from storage.log_start import start_name
from storage.wal_format import SegmentHeader
from tests.storage.builder import (
    BLOCK,
    TOPIC_ID,
    Driven,
    Host,
    contents,
    crashed,
    drive,
    flip,
    records_of,
    segmented,
    wal,
)
from tests.storage.segment_image import SegmentImage


def debug_wal(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(debug, ["wal", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def debug_json(*arguments: object) -> tuple[int, list[dict[str, Any]]]:
    code, output = debug_wal("--format", "json", *arguments)
    return code, [json.loads(line) for line in output.splitlines()]


def of_type(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["type"] == kind]


def crashed_log(path: Path) -> Driven:
    async def scenario() -> Driven:
        return await crashed(path)

    return drive(scenario())


def segmented_log(path: Path) -> Driven:
    async def scenario() -> Driven:
        return await segmented(path)

    return drive(scenario())


def test_a_whole_segment_is_a_line_a_record_and_code_0(tmp_path: Path) -> None:
    driven = crashed_log(tmp_path)
    before = contents(tmp_path)
    code, lines = debug_json(wal(driven))
    assert code == 0
    (segment,) = of_type(lines, "segment")
    assert segment["topic_id"] == TOPIC_ID.hex()
    assert segment["incarnation"] == f"{driven.active.header.incarnation:016x}"
    records = of_type(lines, "record")
    assert [(r["pos"], r["pos"] + BLOCK + r["body_bytes"], r["last_offset"] + 1) for r in records]
    assert [r["pos"] for r in records] == [pos for pos, _, _ in records_of(driven)]
    assert [r["last_offset"] + 1 for r in records] == [end for _, _, end in records_of(driven)]
    assert {r["crc"] for r in records} == {"ok"}
    (summary,) = of_type(lines, "summary")
    assert summary["verdict"] == "clean"
    assert summary["end_pos"] == driven.active.write_pos
    assert summary["next_offset"] == 24
    assert contents(tmp_path) == before


def test_the_text_says_the_same_to_a_person(tmp_path: Path) -> None:
    driven = crashed_log(tmp_path)
    code, text = debug_wal(wal(driven))
    assert code == 0
    lines = text.splitlines()
    assert lines[0] == str(wal(driven))
    assert "the first segment of its partition" in text
    assert sum(line.endswith(" ok") for line in lines) == 12
    assert "12 whole records, 12 batches" in text
    assert f"they end at position {driven.active.write_pos}, before offset 24" in text
    assert "CLEAN END; " in text
    assert "preallocated bytes behind it" in text


@pytest.mark.parametrize("how", ["header", "body", "cut"])
def test_a_torn_tail_is_code_0_and_says_that_nothing_is_to_do(tmp_path: Path, how: str) -> None:
    driven = crashed_log(tmp_path)
    pos, body_end, _ = records_of(driven)[-1]
    if how == "cut":
        os.truncate(wal(driven), body_end - 1)
    else:
        flip(wal(driven), pos + 20 if how == "header" else body_end - 1)
    before = contents(tmp_path)
    code, lines = debug_json(wal(driven))
    (summary,) = of_type(lines, "summary")
    assert (code, summary["verdict"], summary["end_pos"]) == (0, "torn tail", pos)
    assert "Nobody was told that it is durable" in summary["advice"]
    assert [r["crc"] for r in of_type(lines, "record")[11:]] == (
        [] if how == "header" else ["bad body"]
    )
    code, text = debug_wal(wal(driven))
    assert f"TORN TAIL at position {pos}: " in text
    assert contents(tmp_path) == before


def test_a_last_record_before_the_log_start_was_durable_too(tmp_path: Path) -> None:
    driven = crashed_log(tmp_path)
    pos, body_end, _ = records_of(driven)[-1]
    (wal(driven).parent / start_name(24)).touch()
    assert debug_wal(wal(driven))[0] == 0
    flip(wal(driven), body_end - 1)
    code, lines = debug_json(wal(driven))
    (summary,) = of_type(lines, "summary")
    assert (code, summary["verdict"], summary["end_pos"]) == (1, "damage", pos)
    assert "the log starts at offset 24" in summary["proof"]


def test_damage_is_code_1_with_its_proof_and_what_can_still_be_read(tmp_path: Path) -> None:
    driven = crashed_log(tmp_path)
    pos, body_end, _ = records_of(driven)[4]
    flip(wal(driven), body_end - 3)
    before = contents(tmp_path)
    code, lines = debug_json(wal(driven))
    (summary,) = of_type(lines, "summary")
    assert (code, summary["verdict"], summary["end_pos"]) == (1, "damage", pos)
    assert "was durable when it was written" in summary["proof"]
    assert summary["readable_behind"] == {"records": 7, "first_offset": 10, "last_offset": 23}
    code, text = debug_wal(wal(driven))
    assert code == 1
    assert f"DAMAGE at position {pos}: a record whose body is cut or whose CRC" in text
    assert "BAD BODY" in text
    assert "Behind it are 7 whole records, offsets 10 to 23." in text
    assert "Keep a copy of the directory" in text
    assert contents(tmp_path) == before


def test_files_beside_a_segment_prove_damage_too(tmp_path: Path) -> None:
    driven = segmented_log(tmp_path)
    sealed, last = driven.segments[1], driven.segments[-1]
    os.truncate(sealed.path, sealed.write_pos - 2 * BLOCK)
    code, lines = debug_json(sealed.path)
    (summary,) = of_type(lines, "summary")
    assert (code, summary["verdict"]) == (1, "damage")
    assert summary["next_segment"] == driven.segments[2].path.name
    assert "the next segment" in summary["proof"]
    # Without a next segment the checkpoint knows, and of a sealed one its index file.
    for segment in driven.segments[2:]:
        segment.path.rename(tmp_path / segment.path.name)
    _, lines = debug_json(sealed.path)
    assert "the index file" in of_type(lines, "summary")[0]["proof"]
    for path in driven.log.directory.glob("*.checkpoint"):
        path.rename(tmp_path / path.name)
    os.truncate(tmp_path / last.path.name, BLOCK)

    async def reopened() -> None:
        host = Host(tmp_path, life=7, checkpoint_bytes=5 * BLOCK)
        other = await host.open("other-0")
        for i in range(9):
            await other.append_durably(b"%d" % i)
        await host.crash()
        os.truncate(other.active.path, 4 * BLOCK)

    drive(reopened())
    code, lines = debug_json(tmp_path / "other-0" / sealed.path.with_stem("0" * 20).name)
    assert code == 1
    assert "the checkpoint" in of_type(lines, "summary")[0]["proof"]


def test_a_sealed_segment_that_broke_after_its_index_was_written_is_found(tmp_path: Path) -> None:
    driven = segmented_log(tmp_path)
    flip(driven.segments[1].path, 2 * BLOCK)
    codes = [debug_wal(segment.path)[0] for segment in driven.segments]
    assert codes == [0, 1] + [0] * (len(codes) - 2)
    assert debug_wal(*[segment.path for segment in driven.segments])[0] == 1


def test_what_is_no_segment_is_code_2(tmp_path: Path) -> None:
    for name, data in {"empty": b"", "text": b"hello\n" * 1000, "zeros": bytes(8192)}.items():
        path = tmp_path / name
        path.write_bytes(data)
        code, text = debug_wal(path)
        assert code == 2
        assert str(path) in text
    assert debug_wal(tmp_path)[0] == 2
    code, lines = debug_json(tmp_path / "missing")
    assert (code, lines[0]["reason"]) == (2, "No such file or directory")


def test_a_segment_whose_own_header_is_damaged_is_damage(tmp_path: Path) -> None:
    driven = crashed_log(tmp_path)
    flip(wal(driven), 40)
    code, text = debug_wal(wal(driven))
    assert code == 1
    assert "the CRC of the segment header does not match" in text
    assert "Keep a copy" in text


def test_records_shows_batches_and_kafka_records_up_to_a_limit(tmp_path: Path) -> None:
    image = SegmentImage()
    rows = [
        Record(0, 1_700_000_000_123, None, b"plain", ()),
        Record(1, 1_700_000_000_124, b"", b"\xff\x00", (("trace", b"1"), ("none", None))),
    ]
    image.add(build_batch(rows, compression=1, producer_id=7, producer_epoch=1, base_sequence=5))
    image.add(build_batch([(b"k", b"x" * 500)] * 10))
    path = tmp_path / "0.wal"
    path.write_bytes(image.data)
    code, lines = debug_json("--records", path)
    assert code == 0
    batches = of_type(lines, "batch")
    assert [(b["base_offset"], b["records"], b["compression"]) for b in batches] == [
        (0, 2, "gzip"),
        (2, 10, "none"),
    ]
    assert (batches[0]["producer_id"], batches[0]["base_sequence"]) == (7, 5)
    records = of_type(lines, "kafka_record")
    assert len(records) == 12
    assert records[0] == {
        "type": "kafka_record",
        "offset": 0,
        "timestamp": 1_700_000_000_123,
        "key": None,
        "value": "plain",
        "headers": [],
    }
    assert records[1]["key"] == ""
    assert records[1]["value"] == "\\xff\x00"
    assert records[1]["headers"] == [["trace", "1"], ["none", None]]
    assert records[2]["value"].endswith("... (380 more bytes)")
    code, text = debug_wal("--records", "--limit", 3, path)
    assert "0 2023-11-14T22:13:20.123Z key None value 'plain'" in text
    assert "producer 7 epoch 1 from sequence 5" in text
    assert text.count(" value '") == 3
    assert "the limit of --limit is reached" in text


def test_a_batch_that_was_written_broken_is_damage(tmp_path: Path) -> None:
    image = SegmentImage()
    batch = build_batch([(b"k", b"v")])
    batch[-1] ^= 1
    image.add(batch)
    path = tmp_path / "0.wal"
    path.write_bytes(image.data)
    code, text = debug_wal("--records", path)
    assert code == 1
    assert "the CRC of the batch at offset 0" in text
    assert "CRC BAD" in text


def test_a_segment_that_is_being_written_is_read_and_its_owner_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        driven = await Host(tmp_path).open()
        for i in range(5):
            await driven.append_durably(b"%d" % i)
        code, lines = debug_json(wal(driven))
        (summary,) = of_type(lines, "summary")
        assert (code, summary["verdict"], summary["records"]) == (0, "clean", 5)
        assert summary["in_use_by"].startswith(f"process {os.getpid()} ")
        await driven.append_durably(b"still mine")
        await driven.check()

    drive(scenario())


@pytest.mark.parametrize("grows_at", range(2, 6))
def test_a_segment_that_grows_while_it_is_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grows_at: int
) -> None:
    """The scan meets zeros, then looks behind them and finds records of a moment later."""

    image = SegmentImage()
    for i in range(10):
        image.add(build_batch([(None, b"%d" % i)]))
    path = tmp_path / "0.wal"
    early = image.data[: image.records[4].end_pos]
    path.write_bytes(early + bytes(len(image.data) - len(early)))
    real_read, reads = module._ReadOnlyFile.read, 0

    def read_and_grow(self: Any, pos: int, size: int) -> memoryview:
        nonlocal reads
        reads += 1
        view = real_read(self, pos, size)
        if reads == grows_at:  # 2 is the scan's first chunk: what is behind it is written now
            path.write_bytes(image.data)
        return view

    monkeypatch.setattr(module._ReadOnlyFile, "read", read_and_grow)
    code, lines = debug_json(path)
    (summary,) = of_type(lines, "summary")
    assert (code, summary["verdict"]) == (0, "clean")
    assert len(of_type(lines, "record")) == summary["records"] == (10 if grows_at == 2 else 5)
    assert {record["crc"] for record in of_type(lines, "record")} == {"ok"}


def test_absurd_timestamps_stay_numbers(tmp_path: Path) -> None:
    image = SegmentImage(created_ms=1 << 60)
    image.add(build_batch([Record(0, -(1 << 60), None, b"v", ())]))
    path = tmp_path / "0.wal"
    path.write_bytes(image.data)
    code, text = debug_wal("--records", path)
    assert code == 0
    assert str(1 << 60) in text
    assert isinstance(image.header, SegmentHeader)
