"""The command line: options become a Config, errors are one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rpk_py import __version__
from rpk_py.cli import root
from rpk_py.cli.start import make_config
from rpk_py.config import Config, ConfigError

NOTHING: dict[str, Any] = {
    "data_dir": Path("/data"),
    "kafka_addr": None,
    "advertise_kafka_addr": None,
    "admin_addr": None,
    "smp": None,
    "overprovisioned": False,
    "settings": (),
    "io_backend": None,
    "log_level": None,
    "log_format": None,
}


def config_of(**options: Any) -> Config:
    return make_config(**{**NOTHING, **options})


def test_without_options_the_defaults_hold() -> None:
    assert config_of() == Config(data_dir=Path("/data"))


def test_options_become_settings() -> None:
    config = config_of(
        kafka_addr="0.0.0.0:19092",
        advertise_kafka_addr="kafka.example:443",
        admin_addr="[::1]:0",
        smp="1",
        overprovisioned=True,
        io_backend="threads",
        log_level="debug",
        log_format="json",
    )
    assert (config.kafka_host, config.kafka_port) == ("0.0.0.0", 19092)
    assert (config.advertise_host, config.advertise_port) == ("kafka.example", 443)
    assert (config.admin_host, config.admin_port) == ("::1", 0)
    assert config.overprovisioned
    assert (config.io_backend, config.log_level, config.log_format) == ("threads", "debug", "json")


def test_a_port_that_is_not_advertised_is_the_one_that_the_shard_listens_on() -> None:
    config = config_of(advertise_kafka_addr="kafka.example")
    assert (config.advertise_host, config.advertise_port) == ("kafka.example", None)


def test_an_option_wins_over_set() -> None:
    config = config_of(settings=("log_level=error", "cache_bytes=1000"), log_level="debug")
    assert config.log_level == "debug"
    assert config.cache_bytes == 1000


def test_a_relative_data_directory_is_made_absolute() -> None:
    assert config_of(data_dir=Path("here")).data_dir == Path.cwd() / "here"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"smp": "none"}, r"smp=none .*must be a number"),
        ({"settings": ("cash_bytes=1",)}, r"cash_bytes=1 .*no such setting"),
        ({"settings": ("cache_bytes",)}, r"--set=cache_bytes .*must be NAME=VALUE"),
        ({"kafka_addr": "9092"}, r"--kafka-addr=9092 .*must be HOST:PORT"),
    ],
)
def test_a_wrong_option_is_named_with_what_would_be_right(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        config_of(**options)


def test_a_wrong_option_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    result = CliRunner().invoke(root, ["start", "--data-dir", str(tmp_path), "--smp", "0"])
    assert result.exit_code == 1
    assert result.output == "rpk-py: smp=0 is not valid: must be between 1 and 128\n"
    assert not list(tmp_path.iterdir())


def test_help_lists_the_commands_without_loading_them() -> None:
    result = CliRunner().invoke(root, ["--help"])
    assert result.exit_code == 0
    assert "start" in result.output
    assert "debug" in result.output


def test_the_options_of_the_first_slice_are_in_the_help() -> None:
    text = CliRunner().invoke(root, ["start", "--help"]).output
    for option in (
        "--data-dir",
        "--kafka-addr",
        "--advertise-kafka-addr",
        "--admin-addr",
        "--log-level",
        "--log-format",
        "--io-backend",
        "--smp",
        "--overprovisioned",
    ):
        assert option in text


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(root, ["--version"]).output == f"rpk-py, version {__version__}\n"
