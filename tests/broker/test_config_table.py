"""docs/CONFIGURATION.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rpk_py.config import SETTINGS
from rpk_py.setting import ConfigError
from rpk_py.settings_sources import load
from tests.broker import config_table


def test_the_page_is_what_the_code_says() -> None:
    written = (config_table.ROOT / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8")
    assert written == config_table.document(), f"stale, run: {config_table.COMMAND}"


def test_every_setting_has_its_row_with_its_variable() -> None:
    text = config_table.document()
    for name in SETTINGS:
        assert f"\n| `{name}` | `RPK_{name.upper()}` | " in text


def test_the_example_of_a_file_is_one(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", config_table.document(), re.DOTALL)
    assert found is not None
    file = tmp_path / "rpk.toml"
    file.write_text(found[1], encoding="utf-8")
    config = load({}, (), {}, file, lambda: 4).config
    assert (config.smp, config.kafka_host, config.advertise_host) == (
        *(4, "0.0.0.0", "broker-1.example"),
    )


def test_the_example_of_an_error_is_what_is_said(tmp_path: Path) -> None:
    file = tmp_path / "rpk.toml"
    file.write_text("smp = 1\nkafka_port = 99999\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load({}, (), {}, file, lambda: 1)
    said = str(caught.value).replace(str(file), "/etc/rpk.toml")
    assert f"\nrpk-py: {said}\n" in config_table.document()
