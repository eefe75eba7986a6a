"""Settings from a file, the environment and flags: which wins, and what an error says."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from rpk_py.config import Config
from rpk_py.setting import ConfigError
from rpk_py.settings_sources import Loaded, as_toml, load, parse_address
from rpk_py.startup_error import StartupError


def loaded(
    file: Path | None = None,
    environment: dict[str, str] | None = None,
    assignments: tuple[str, ...] = (),
    **flags: str,
) -> Loaded:
    return load(flags, assignments, environment or {}, file, lambda: 3)


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "rpk.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_any_source_the_defaults_hold() -> None:
    assert loaded() == Loaded(Config(data_dir=Path.cwd() / "data"), {})


def test_the_later_source_wins(tmp_path: Path) -> None:
    file = written(tmp_path, "flush_ms = 1\ncache_bytes = 1\nsegment_bytes = 20000\nsmp = 1\n")
    environment = {"RPK_CACHE_BYTES": "2", "RPK_SEGMENT_BYTES": "30000", "RPK_SMP": "2"}
    result = loaded(file, environment, ("segment_bytes=40000", "smp=3"), smp="4")
    config = result.config
    assert (config.flush_ms, config.cache_bytes, config.segment_bytes, config.smp) == (
        *(1, 2, 40000, 4),
    )
    assert result.places == {
        "flush_ms": f"{file}:1",
        "cache_bytes": "RPK_CACHE_BYTES",
        "segment_bytes": "--set",
        "smp": "--smp",
    }


def test_every_source_can_say_where_the_data_is(tmp_path: Path) -> None:
    file = written(tmp_path, 'data_dir = "/file"')
    assert loaded(file).config.data_dir == Path("/file")
    assert loaded(file, {"RPK_DATA_DIR": "/env"}).config.data_dir == Path("/env")
    assert loaded(file, {}, ("data_dir=/set",)).config.data_dir == Path("/set")
    assert loaded(file, data_dir="/flag").config.data_dir == Path("/flag")


def test_the_file_is_the_one_of_the_option_or_of_the_environment(tmp_path: Path) -> None:
    file = written(tmp_path, "flush_ms = 5")
    assert loaded(None, {"RPK_CONFIG": str(file)}).config.flush_ms == 5
    assert loaded(file, {"RPK_CONFIG": "/no/such"}).config.flush_ms == 5
    with pytest.raises(StartupError, match="file /no/such of RPK_CONFIG cannot be read: No such"):
        loaded(None, {"RPK_CONFIG": "/no/such"})


def test_an_address_is_a_host_and_a_port_in_every_source(tmp_path: Path) -> None:
    file = written(tmp_path, 'kafka_addr = "0.0.0.0:1000"\nadmin_addr = "[::1]:2000"\n')
    config = loaded(file, {"RPK_KAFKA_ADDR": "127.0.0.2"}, ("advertise_kafka_addr=b:9",)).config
    assert (config.kafka_host, config.kafka_port) == ("127.0.0.2", 1000)
    assert (config.admin_host, config.admin_port) == ("::1", 2000)
    assert (config.advertise_host, config.advertise_port) == ("b", 9)


def test_a_source_that_says_a_port_twice_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, 'kafka_port = 1000\nkafka_addr = "0.0.0.0:2000"\n')
    with pytest.raises(ConfigError, match=r"^kafka_addr=.*rpk.toml:2 .*already, by kafka_port$"):
        loaded(file)


def test_an_empty_variable_unsets_what_may_be_unset(tmp_path: Path) -> None:
    file = written(tmp_path, 'rack = "north"')
    assert loaded(file).config.rack == "north"
    assert loaded(file, {"RPK_RACK": ""}).config.rack is None
    assert "# rack is unset  # RPK_RACK | " in as_toml(loaded(file, {"RPK_RACK": ""}))


@pytest.mark.parametrize(("text", "sources"), [('smp = "auto"', {}), ("", {"RPK_SMP": "auto"})])
def test_auto_is_a_shard_a_usable_core(tmp_path: Path, text: str, sources: dict[str, str]) -> None:
    assert loaded(written(tmp_path, text), sources).config.smp == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "\nkafka_port = 99999",
            "kafka_port=99999 in {}:2 is not valid: must be between 0 and 65535",
        ),
        ('kafka_port = "9092"', 'kafka_port="9092" in {}:1 is not valid: must be a whole number'),
        ("kafka_port = 9092.0", "kafka_port=9092.0 in {}:1 is not valid: must be a whole number"),
        ("kafka_port = true", "kafka_port=true in {}:1 is not valid: must be a whole number"),
        ("write_caching = 1", "write_caching=1 in {}:1 is not valid: must be true or false"),
        ("kafka_host = 7", "kafka_host=7 in {}:1 is not valid: must be text"),
        ("kafka_addr = 9092", "kafka_addr=9092 in {}:1 is not valid: must be text, HOST:PORT"),
        ("smp = 'all'", 'smp="all" in {}:1 is not valid: must be a whole number or auto'),
        (
            "data_dir = ''",
            "data_dir= in {}:1 is not valid: must be text on one line, and not empty",
        ),
        (
            "kafka_prot = 1",
            "kafka_prot=1 in {}:1 is not valid: there is no such setting; did you mean kafka_port?",
        ),
        (
            "[kafka]\nport = 1",
            "kafka={{'port': 1}} in {}:1 is not valid: there is no such setting;"
            " did you mean kafka_port?",
        ),
        (
            "smp = 2\nkafka_port = 65535",
            "kafka_port=65535 in {0}:2 is not valid:"
            " the last shard's port would be 65536, with smp=2 ({0}:1)",
        ),
    ],
)
def test_an_error_in_a_file_names_setting_file_and_line(
    tmp_path: Path, text: str, says: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        loaded(file)
    assert str(caught.value) == says.format(file)


@pytest.mark.parametrize("data", [b"smp = ", b"smp = 1\nsmp = 2", b"\xff", b"a = " + b"[" * 9999])
def test_what_is_no_toml_is_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "rpk.toml"
    file.write_bytes(data)
    with pytest.raises(StartupError, match=r"^the configuration file .* is not valid TOML: .*"):
        loaded(file)


def test_a_mark_of_byte_order_is_no_part_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "rpk.toml"
    file.write_bytes(b"\xef\xbb\xbfsmp = 2\n")
    assert loaded(file) == Loaded(Config(data_dir=Path.cwd() / "data", smp=2), {"smp": f"{file}:1"})


def test_a_file_that_could_keep_the_start_waiting_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    says = f"the configuration file {fifo} of --config cannot be read: it is not a regular file"
    with pytest.raises(StartupError, match=f"^{re.escape(says)}$"):
        loaded(fifo)
    with pytest.raises(StartupError, match=r"cannot be read: Is a directory$"):
        loaded(tmp_path)


def test_a_place_is_one_line_whatever_the_name_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a\nsmp = 7\n.toml"
    file.write_text("flush_ms = 5\n", encoding="utf-8")
    result = loaded(file)
    assert tomllib.loads(as_toml(result))["smp"] == 1
    assert f"flush_ms = 5  # {str(file)!r}:1 | " in as_toml(result)
    file.write_text("flush_ms = 0\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        loaded(file)
    assert "\n" not in str(caught.value)
    file.write_text("flush_ms", encoding="utf-8")
    with pytest.raises(StartupError) as refused:
        loaded(file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("RPK_KAFKA_PORT", "99999", "kafka_port=99999 in RPK_KAFKA_PORT is not valid: must be bet"),
        (
            "RPK_KAFKA_PROT",
            "1",
            "RPK_KAFKA_PROT=1 in the environment .*; did you mean RPK_KAFKA",
        ),
        ("RPK_SMP", "", "smp= in RPK_SMP is not valid: must be a whole number or auto"),
        (
            "RPK_kafka_port",
            "1",
            "RPK_kafka_port=1 in the environment is not valid: there is no",
        ),
    ],
)
def test_an_error_in_the_environment_names_the_variable(
    variable: str, value: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{says}"):
        loaded(None, {variable: value})


@pytest.mark.parametrize("variable", ["RPK_BROKERS", "RPK_PY_SEED", "RPKX", "PATH"])
def test_variables_of_others_are_left_alone(variable: str) -> None:
    assert loaded(None, {variable: "x"}).places == {}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9092", ("127.0.0.1", 9092)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9092", ("::1", 9092)),
        ("[::1]", ("::1", None)),
        ("broker", ("broker", None)),
    ],
)
def test_addresses_are_host_and_port(text: str, address: tuple[str, int | None]) -> None:
    assert parse_address("kafka_addr", text) == address


@pytest.mark.parametrize("text", ["", ":9092", "a:", "a:b", "a:65536", "a:-1", "::1:9092", "[::1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^kafka_addr="):
        parse_address("kafka_addr", text)
