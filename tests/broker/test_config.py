"""The configuration: what is valid, what an error says, and how text becomes a value."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rpk_py import topic_configs
from rpk_py.broker_configs import in_force
from rpk_py.config import SETTINGS, Config, parse_setting
from rpk_py.config_types import SOURCE_DEFAULT, SOURCE_STATIC, SOURCE_TOPIC
from rpk_py.setting import ConfigError, Setting

DIR = Path("/data")


def test_the_defaults_are_valid() -> None:
    assert Config(data_dir=DIR).node_ids == [0]


def test_node_ids_are_host_id_times_128_plus_shard() -> None:
    assert Config(data_dir=DIR, host_id=2, smp=3).node_ids == [256, 257, 258]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("smp", 0, "between 1 and 128"),
        ("smp", 129, "between 1 and 128"),
        ("kafka_port", 65536, "between 0 and 65535"),
        ("admin_port", -1, "between 0 and 65535"),
        ("log_level", "loud", "one of debug, info"),
        ("lock_wait_s", float("nan"), "between 0.0 and 3600.0"),
        ("kafka_host", "", "not empty"),
        ("io_backend", "magic", "one of auto, liburing, ring, threads"),
        ("max_message_bytes", 200_000_000, "must not exceed frame_bytes_max"),
        ("restart_backoff_s", 9.0, "must not exceed restart_backoff_s_max"),
        ("log_retention_ms", 0, "must be -1 .unlimited. or at least 1"),
        ("log_retention_minutes", 0, "must be -1 .unlimited. or at least 1"),
        ("log_retention_hours", 0, "must be -1 .unlimited. or at least 1"),
        ("log_cleanup_policy", "delete,delete", "must be one of delete, compact"),
    ],
)
def test_an_error_names_the_setting_and_what_would_be_right(
    name: str, value: object, says: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{name}={value} is not valid: .*{says}"):
        Config(**{"data_dir": DIR, name: value})


def test_an_error_is_one_line_whatever_the_name() -> None:
    error = ConfigError("RPK_\nX", "1", "there is no such setting")
    assert str(error) == r"'RPK_\nX'=1 is not valid: there is no such setting"


def test_an_error_is_one_line_whatever_the_value() -> None:
    with pytest.raises(ConfigError) as caught:
        Config(data_dir=DIR, rack="here\nand there")
    assert str(caught.value).startswith(r"rack='here\nand there' is not valid: must be text on one")


def test_an_error_of_two_settings_names_both() -> None:
    with pytest.raises(ConfigError) as caught:
        Config(data_dir=DIR, max_message_bytes=5000, frame_bytes_max=4000)
    error = caught.value.at({"max_message_bytes": "a.toml:3"})
    assert str(error) == (
        "max_message_bytes=5000 in a.toml:3 is not valid:"
        " must not exceed frame_bytes_max=4000 (default)"
    )


def test_a_topic_of_the_default_size_may_be_created() -> None:
    with pytest.raises(
        ConfigError, match=r"^default_partitions=3 .*exceed partitions_per_topic_max=2"
    ):
        Config(data_dir=DIR, default_partitions=3, partitions_per_topic_max=2)


def test_the_admin_port_is_none_of_the_shards() -> None:
    Config(data_dir=DIR, kafka_port=9640, admin_port=9644, smp=4)
    with pytest.raises(ConfigError, match=r"^admin_port=9644 .*shard 3 listens .*kafka_port=9641"):
        Config(data_dir=DIR, kafka_port=9641, admin_port=9644, smp=4)
    Config(data_dir=DIR, kafka_port=9641, kafka_host="::1", admin_port=9644, smp=4)


@pytest.mark.parametrize(
    ("kafka", "admin", "is_same"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "0.0.0.0", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "::1", False),
        ("::1", "0.0.0.0", False),
        ("::", "0.0.0.0", True),
        ("::", "127.0.0.1", True),
        ("::1", "::", True),
        ("::1", "127.0.0.1", False),
    ],
)
def test_a_port_of_all_addresses_is_a_port_of_each(kafka: str, admin: str, is_same: bool) -> None:
    hosts = {"kafka_host": kafka, "admin_host": admin}
    if not is_same:
        Config(data_dir=DIR, kafka_port=9644, **hosts)
        return
    with pytest.raises(ConfigError, match=r"^admin_port=9644 .*shard 0 listens .*kafka_port=9644"):
        Config(data_dir=DIR, kafka_port=9644, **hosts)


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))
def test_a_setting_says_what_it_means_and_every_number_has_its_bounds(setting: Setting) -> None:
    assert setting.meaning == setting.meaning.strip()
    assert not setting.meaning.endswith(".")
    assert (setting.low is None) == (setting.kind not in ("int", "float"))
    if setting.default is not None:
        assert setting.is_valid(setting.default)


def test_shards_must_fit_between_the_port_and_65535() -> None:
    with pytest.raises(ConfigError, match="last shard's port would be 65536, with smp=4"):
        Config(data_dir=DIR, kafka_port=65533, smp=4)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("cache_bytes", "4096", 4096),
        ("lock_wait_s", "0.5", 0.5),
        ("auto_create_topics", "False", False),
        ("write_caching", "true", True),
        ("advertise_host", "broker.example", "broker.example"),
        ("advertise_host", "", None),
        ("advertise_port", "1234", 1234),
        ("io_backend", "threads", "threads"),
        ("data_dir", "/x", Path("/x")),
    ],
)
def test_text_becomes_the_settings_type(name: str, text: str, value: object) -> None:
    assert parse_setting(name, text) == value


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("cash_bytes", "1", "there is no such setting"),
        ("cache_bytes", "many", "must be a whole number"),
        # As narrow as what a client may set while the broker runs.
        ("cache_bytes", "1_000", "must be a whole number"),
        ("cache_bytes", "\u0661\u0660", "must be a whole number"),  # digits, but not ASCII
        ("cache_bytes", " 1000", "must be a whole number"),
        ("cache_bytes", "1000\n", "must be a whole number"),
        ("lock_wait_s", "long", "must be a number"),
        ("lock_wait_s", "1_0.5", "must be a number"),
        ("lock_wait_s", " 1", "must be a number"),
        ("lock_wait_s", "nan", "must be a number"),
        ("smp", "all", "must be a whole number or auto"),
        ("data_dir", "", "not empty"),
        ("write_caching", "perhaps", "must be true or false"),
    ],
)
def test_wrong_text_is_an_error_that_helps(name: str, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_setting(name, text)


def test_every_setting_can_be_given_as_text() -> None:
    config = Config(data_dir=DIR)
    for name in SETTINGS:
        value = getattr(config, name)
        text = "" if value is None else str(value)
        assert parse_setting(name, text) == value


# Topic configs.


@pytest.mark.parametrize("name", topic_configs.TOPIC_CONFIGS)
def test_the_default_of_every_topic_config_is_valid(name: str) -> None:
    value = topic_configs.effective_value(name, {}, Config(data_dir=DIR))
    assert topic_configs.validate(name, value) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("segment.bytes", "1"),
        ("retention.ms", "soon"),
        ("retention.ms", "-2"),
        ("cleanup.policy", "burn"),
        ("compression.gzip.level", "0"),
        ("message.timestamp.type", "createtime"),
        ("write.caching", "maybe"),
        ("min.cleanable.dirty.ratio", "1.5"),
        ("min.cleanable.dirty.ratio", "nan"),
        ("min.cleanable.dirty.ratio", "0_1"),
        ("min.cleanable.dirty.ratio", "1e999"),
        ("segment.bytes", "1_000_000"),
        ("segment.bytes", "\u0661\u0660\u0660\u0660\u0660\u0660"),  # digits, but not ASCII
        ("segment.bytes", "0x10000"),
        ("segment.bytes", "+"),
        ("segment.bytes", "9" * 20_000),
        ("compression.type", None),
        ("no.such.config", "1"),
    ],
)
def test_a_wrong_topic_config_is_refused_by_name(name: str, value: str | None) -> None:
    problem = topic_configs.validate(name, value)
    assert problem is not None
    assert name in problem


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("segment.bytes", " +0020000 ", "20000"),
        ("retention.ms", "-1", "-1"),
        ("retention.ms", "-0", "0"),
        ("min.cleanable.dirty.ratio", " .5e0 ", ".5e0"),
        ("write.caching", "TRUE", "true"),
        ("cleanup.policy", " delete", "delete"),
    ],
)
def test_a_valid_topic_config_is_stored_in_one_form(name: str, value: str, stored: str) -> None:
    assert topic_configs.validate(name, value) is None
    assert topic_configs.normalize(name, value) == stored


def test_a_topics_own_config_wins_over_the_brokers_and_that_over_the_default() -> None:
    plain = Config(data_dir=DIR)
    cached = dataclasses.replace(plain, write_caching=True)
    assert not topic_configs.log_settings({}, plain).write_caching
    assert topic_configs.log_settings({}, cached).write_caching
    assert not topic_configs.log_settings({"write.caching": "false"}, cached).write_caching


@pytest.mark.parametrize(
    ("own", "settings", "retention_ms"),
    [
        ({}, {}, 168 * 3_600_000),
        ({}, {"log_retention_hours": 2}, 7_200_000),
        ({}, {"log_retention_hours": 2, "log_retention_minutes": 3}, 180_000),
        ({}, {"log_retention_minutes": 3, "log_retention_ms": 4}, 4),
        ({}, {"log_retention_minutes": -1}, -1),
        ({"retention.ms": "5"}, {"log_retention_ms": 4}, 5),
        ({"retention.ms": "0"}, {}, 0),
    ],
)
def test_the_finest_unit_of_retention_counts(
    own: dict[str, str], settings: dict[str, int], retention_ms: int
) -> None:
    config = Config(data_dir=DIR, **settings)
    assert topic_configs.log_settings(own, config).retention_ms == retention_ms


def test_the_finest_unit_of_rolling_counts() -> None:
    config = Config(data_dir=DIR, log_roll_hours=2, log_roll_jitter_hours=1)
    found = topic_configs.log_settings({}, config)
    assert (found.segment_ms, found.segment_jitter_ms) == (7_200_000, 3_600_000)
    config = dataclasses.replace(config, log_roll_ms=5, log_roll_jitter_ms=0)
    found = topic_configs.log_settings({}, config)
    assert (found.segment_ms, found.segment_jitter_ms) == (5, 0)


@pytest.mark.parametrize(
    ("own", "broker", "deletes"),
    [
        (None, "delete", True),
        (None, "compact", False),
        (None, "compact,delete", True),
        ("", "delete", False),
        ("compact", "delete", False),
        ("compact,delete", "compact", True),
    ],
)
def test_only_a_policy_with_delete_deletes(own: str | None, broker: str, deletes: bool) -> None:
    config = Config(data_dir=DIR, log_cleanup_policy=broker)
    configs = {} if own is None else {"cleanup.policy": own}
    assert topic_configs.log_settings(configs, config).deletes is deletes


def test_effective_configs_say_where_each_value_comes_from() -> None:
    config = Config(data_dir=DIR, flush_ms=7)
    values = in_force(config, {}, None)
    entries = {e.name: e for e in topic_configs.effective({"segment.bytes": "20000"}, values)}
    assert entries["segment.bytes"][1:4] == ("20000", False, SOURCE_TOPIC)
    assert entries["flush.ms"][1:4] == ("7", False, SOURCE_STATIC)
    assert entries["retention.ms"][3] == SOURCE_DEFAULT
    assert entries.keys() == topic_configs.TOPIC_CONFIGS.keys()
