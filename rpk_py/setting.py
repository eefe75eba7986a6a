"""What a setting is: its facts, whether a value is right, and the error that says that it is not.

Pure; no process of its own. config.py has the settings.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

# What no name or path holds on purpose, and what neither TOML nor a file system takes.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class ConfigError(Exception):
    """A setting is wrong; the message names it, its value, its place and what would be right.

    other   (name, value) of a second setting that the first does not agree with; it ends `expected`
    places  setting -> where its value stands, as far as that is known
    """

    def __init__(
        self,
        name: str,
        value: object,
        expected: str,
        other: tuple[str, object] | None = None,
        places: Mapping[str, str] | None = None,
    ) -> None:
        places = places or {}
        where = f" in {places[name]}" if name in places else ""
        text = f"{shown(name)}={shown(value)}{where} is not valid: {expected}"
        if other is not None:
            text += f" {other[0]}={shown(other[1])}"
            text += f" ({places.get(other[0], 'default')})" if places else ""
        super().__init__(text)
        self.name = name
        self.value = value
        self.expected = expected
        self.other = other

    def at(self, places: Mapping[str, str]) -> ConfigError:
        """The same error, told with the places of its settings."""
        return ConfigError(self.name, self.value, self.expected, self.other, places)


class Setting(NamedTuple):
    """What is known about one field of Config.

    kind      int | float | bool | str | Path
    optional  None is a value too, written as empty text
    section   title of the group that starts with this setting; None: it belongs to the one before
    """

    name: str
    kind: str
    optional: bool
    default: Any
    meaning: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    section: str | None

    @property
    def unit(self) -> str:
        """Plural noun, or empty where the value counts what the name says."""
        stem = self.name.removesuffix("_max")
        for suffix, unit in (("_bytes", "bytes"), ("_ms", "milliseconds"), ("_s", "seconds")):
            if stem.endswith(suffix):
                return unit
        return ""

    @property
    def expected(self) -> str:
        """What a right value is, as it stands in an error: "must be ..."."""
        if self.choices:
            return f"must be one of {', '.join(self.choices)}"
        if self.low is not None:
            return f"must be between {self.low} and {self.high}"
        return "must be text on one line, and not empty"

    @property
    def type_words(self) -> str:
        """The type of its values as it stands in an error: "must be ..."."""
        words = {"int": "a whole number", "float": "a number", "bool": "true or false"}
        return words.get(self.kind, "text") + (" or auto" if self.name == "smp" else "")

    def is_valid(self, value: Any) -> bool:
        """Whether Config takes this value, which has the right type."""
        if value is None:
            return self.optional
        if self.choices:
            return value in self.choices
        if self.low is not None and self.high is not None:
            return bool(self.low <= value <= self.high)
        if self.kind in ("str", "Path"):
            return str(value) != "" and not _UNPRINTABLE.search(str(value))
        return True


def setting(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    section: str | None = None,
) -> Any:
    """A field of Config; see Setting."""
    about = {"low": low, "high": high, "choices": choices, "section": section}
    return dataclasses.field(default=default, metadata={"meaning": meaning, **about})


def describe(field: dataclasses.Field[Any]) -> Setting:
    """The facts of a field that `setting` made."""
    kind, _, optional = str(field.type).partition(" | ")
    kind = "str" if kind == "IoBackend" else kind
    return Setting(
        name=field.name,
        kind=kind,
        optional=optional == "None",
        default=field.default,
        **field.metadata,
    )


def shown(value: object) -> str:
    """A value on one line."""
    text = str(value)
    return repr(text) if _UNPRINTABLE.search(text) else text
