"""The command line: options become settings, errors are one line, the help is complete."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rpk_py import __version__
from rpk_py.cli import root
from rpk_py.cli.start import print_banner
from rpk_py.config import SETTINGS, Config
from rpk_py.supervisor import BrokerInfo


def printed(*arguments: str, **environment: str) -> tuple[dict[str, object], str]:
    """What `start --print-config` says: the values, and the text."""
    result = CliRunner().invoke(root, ["start", "--print-config", *arguments], env=environment)
    assert result.exit_code == 0, result.output
    return tomllib.loads(result.output), result.output


def refusal(*arguments: str, **environment: str) -> str:
    """The one line of a start with a wrong setting."""
    result = CliRunner().invoke(root, ["start", "--print-config", *arguments], env=environment)
    assert result.exit_code == 1
    assert result.output.startswith("rpk-py: ")
    assert result.output.count("\n") == 1
    return result.output.removeprefix("rpk-py: ").rstrip("\n")


def test_options_become_settings() -> None:
    values, text = printed(
        *("--data-dir", "/x", "--kafka-addr", "0.0.0.0:19092", "--admin-addr", "[::1]:0"),
        *("--advertise-kafka-addr", "kafka.example:443", "--smp", "3", "--overprovisioned"),
        *("--io-backend", "threads", "--log-level", "debug", "--log-format", "json"),
        *("--set", "rack=north", "--set", "flush_ms=7"),
    )
    assert values == {
        **{s.name: s.default for s in SETTINGS.values() if s.default is not None},
        "data_dir": "/x",
        "kafka_host": "0.0.0.0",
        "kafka_port": 19092,
        "admin_host": "::1",
        "admin_port": 0,
        "advertise_host": "kafka.example",
        "advertise_port": 443,
        "smp": 3,
        "overprovisioned": True,
        "io_backend": "threads",
        "log_level": "debug",
        "log_format": "json",
        "rack": "north",
        "flush_ms": 7,
    }
    assert re.search(r"^kafka_port = 19092  # --kafka-addr \| ", text, re.MULTILINE)
    assert re.search(r"^flush_ms = 7  # --set \| .* \(milliseconds\)$", text, re.MULTILINE)
    assert re.search(r"^cache_bytes = 67108864  # default \| ", text, re.MULTILINE)


def test_a_port_that_is_not_advertised_is_the_one_that_the_shard_listens_on() -> None:
    values, text = printed("--advertise-kafka-addr", "kafka.example")
    assert values["advertise_host"] == "kafka.example"
    assert "# advertise_port is unset  # default | " in text


def test_an_option_wins_over_set() -> None:
    values, _ = printed("--log-level", "debug", "--set", "log_level=error", "--set", "flush_ms=9")
    assert (values["log_level"], values["flush_ms"]) == ("debug", 9)


def test_a_relative_data_directory_is_made_absolute() -> None:
    assert printed("--data-dir", "here")[0]["data_dir"] == str(Path.cwd() / "here")


def test_auto_is_printed_as_the_number_of_shards_that_it_means() -> None:
    values, text = printed("--smp", "auto")
    assert isinstance(values["smp"], int)
    assert re.search(r"^smp = \d+  # --smp, auto \| ", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--smp", "0"), "smp=0 in --smp is not valid: must be between 1 and 128"),
        (("--smp", "none"), "smp=none in --smp is not valid: must be a whole number or auto"),
        (("--log-level", "loud"), "log_level=loud in --log-level is not valid: must be one of"),
        (("--set", "cash_bytes=1"), "cash_bytes=1 in --set is not .*; did you mean cache_bytes?"),
        (("--set", "xyzzy=1"), "xyzzy=1 in --set .* rpk-py start --print-config lists all"),
        (("--set", "cache_bytes"), "--set=cache_bytes is not valid: must be NAME=VALUE"),
        (("--kafka-addr", "9092"), "kafka_addr=9092 in --kafka-addr is not .* be HOST:PORT"),
        (("--config", "/no/such"), "the configuration file /no/such of --config cannot be read"),
    ],
)
def test_a_wrong_option_is_one_line_that_says_what_would_be_right(
    arguments: tuple[str, ...], says: str
) -> None:
    assert re.match(says, refusal(*arguments)), refusal(*arguments)


def test_printing_the_configuration_touches_no_directory(tmp_path: Path) -> None:
    printed("--data-dir", str(tmp_path / "data"))
    assert not list(tmp_path.iterdir())


def test_what_is_printed_is_a_file_that_means_the_same(tmp_path: Path) -> None:
    settings = ("--smp", "2", "--set", 'rack=a "b" \\ ü', "--set", "restart_backoff_s=0.25")
    first, text = printed(*settings, "--data-dir", "/x y")
    file = tmp_path / "rpk.toml"
    file.write_text(text, encoding="utf-8")
    second, again = printed("--config", str(file))
    assert first == second
    assert Config(data_dir=Path("/x y")).flush_ms == second["flush_ms"]
    line = text.splitlines().index(next(s for s in text.splitlines() if s.startswith("smp =")))
    assert f"smp = 2  # {file}:{line + 1} | " in again


def test_what_is_printed_is_utf_8_whatever_the_terminal_takes() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "rpk_py", "start", "--print-config", "--set", "rack=nörd"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert tomllib.loads(result.stdout.decode("utf-8"))["rack"] == "nörd"


def broker(
    directory: Path, *, caching_nodes: Sequence[int] = (), caching_topics: int = 0, **facts: Any
) -> BrokerInfo:
    """What the supervisor of two shards tells the banner."""
    return BrokerInfo(
        caching_nodes=list(caching_nodes),
        caching_topics=caching_topics,
        pid=1,
        data_dir=directory,
        kafka=["127.0.0.1:9092", "127.0.0.1:10000"],
        admin="127.0.0.1:9644",
        shard_pids=[2, 3],
        disk="threads, Direct I/O",
        **facts,
    )


def test_the_banner_names_every_shard_with_its_core(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpk_py.data_dir.file_system", lambda path: "ext4")
    config = Config(data_dir=tmp_path, smp=2, log_format="console")
    print_banner(config, broker(tmp_path, cores=[3, None]))
    assert capsys.readouterr().err == (
        f"rpk-py {__version__} is ready\n"
        "  kafka   127.0.0.1:9092   core 3\n"
        "          127.0.0.1:10000  not pinned\n"
        "  admin   http://127.0.0.1:9644/v1/status/ready\n"
        f"  data    {tmp_path}\n"
        "  disk    threads, Direct I/O\n"
        "  acknowledged means durable: on disk before the reply\n"
    )


DURABLE = "acknowledged means durable: on disk before the reply"
MAY_BE_LOST = "write caching: acknowledged records may be lost at a power cut"


@pytest.mark.parametrize(
    ("nodes", "topics", "says"),
    [
        ([], 0, DURABLE),
        ([0, 1], 0, MAY_BE_LOST),
        ([0, 1], 3, MAY_BE_LOST),
        ([1], 0, f"{DURABLE}; not so with write caching: node 1"),
        ([], 3, f"{DURABLE}; not so with write caching: topics with write.caching=true: 3"),
        (
            [1],
            3,
            f"{DURABLE}; not so with write caching: node 1, topics with write.caching=true: 3",
        ),
    ],
)
def test_the_banner_promises_what_is_in_force(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[int],
    topics: int,
    says: str,
) -> None:
    monkeypatch.setattr("rpk_py.data_dir.file_system", lambda path: "ext4")
    config = Config(data_dir=tmp_path, smp=2, log_format="json")
    print_banner(config, broker(tmp_path, cores=[0, 1], caching_nodes=nodes, caching_topics=topics))
    assert json.loads(capsys.readouterr().err)["durability"] == says


def test_the_banner_is_json_where_the_log_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(data_dir=tmp_path, smp=2, log_format="json", write_caching=True)
    print_banner(config, broker(tmp_path, cores=[0, 1]))
    said = json.loads(capsys.readouterr().err)
    assert said["message"] == "rpk-py is ready"
    assert (said["kafka"], said["cores"]) == (["127.0.0.1:9092", "127.0.0.1:10000"], [0, 1])


def test_help_lists_the_commands_without_loading_them() -> None:
    result = CliRunner().invoke(root, ["--help"])
    assert result.exit_code == 0
    assert "start" in result.output
    assert "debug" in result.output


@pytest.mark.parametrize(
    "option",
    [
        *("--data-dir", "--kafka-addr", "--advertise-kafka-addr", "--admin-addr", "--smp"),
        *("--overprovisioned", "--io-backend", "--log-level", "--log-format"),
        *("--set", "--config", "--print-config"),
    ],
)
def test_every_option_is_in_the_help_with_what_it_means(option: str) -> None:
    text = CliRunner().invoke(root, ["start", "--help"]).output
    assert re.search(rf"^  {option}\b.*\n?.*[A-Za-z]{{3}}", text, re.MULTILINE)


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(root, ["--version"]).output == f"rpk-py, version {__version__}\n"
