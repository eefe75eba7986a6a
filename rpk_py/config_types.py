"""What topic configs and broker configs have in common: types, sources, synonyms, checks of text.

Which process: both.  Pure.
Invariants: a value for which `value_problem` found nothing can be parsed as its kind.
Deviations: digits are ASCII digits, where Java also reads those of other scripts.
Source: ConfigDef (types, and what is said of a bad value) and DescribeConfigsResponse (numbers) of
Apache Kafka.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SOURCE_TOPIC: Final = 1  # set on the topic
SOURCE_NODE: Final = 2  # dynamic, set for one node
SOURCE_DYNAMIC_DEFAULT: Final = 3  # dynamic, set for all nodes
SOURCE_STATIC: Final = 4  # from the broker's own settings: file, environment, flags
SOURCE_DEFAULT: Final = 5  # built in

TYPE_CODES: Final = {
    "boolean": 1,
    "string": 2,
    "int": 3,
    "short": 4,
    "long": 5,
    "double": 6,
    "list": 7,
}

LONG_MAX: Final = 2**63 - 1
INT_MAX: Final = 2**31 - 1
_TYPE_MAX = {"int": INT_MAX, "long": LONG_MAX}
# Narrower than int() and float(), which also take "1_000" and digits of other scripts.
INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Synonym(NamedTuple):
    """One place where a config has a value; the first of a list is the one in force."""

    name: str
    value: str | None
    source: int


class ConfigEntry(NamedTuple):
    """One effective config, as CreateTopics v5+ and DescribeConfigs report it."""

    name: str
    value: str | None
    read_only: bool
    source: int
    is_sensitive: bool


class DescribedConfig(NamedTuple):
    """One effective config with all that DescribeConfigs may be asked for."""

    entry: ConfigEntry
    kind: str
    documentation: str
    synonyms: list[Synonym]


def described(
    name: str,
    kind: str,
    documentation: str,
    synonyms: list[Synonym],
    read_only: bool = False,
    value: str | None = None,
) -> DescribedConfig:
    """The config that has these synonyms; without any it has no value, by default. `value`: that
    of the first one, where it has another unit."""
    source = synonyms[0].source if synonyms else SOURCE_DEFAULT
    if value is None and synonyms:
        value = synonyms[0].value
    entry = ConfigEntry(name, value, read_only, source, False)
    return DescribedConfig(entry, kind, documentation, synonyms)


def value_problem(
    kind: str,
    text: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    also: int | None = None,
) -> str | None:
    """What is wrong with the text of a value, or None. Blanks around it do not count.

    Shapes:  low, high  the range of a number, inclusive
             choices    what a text, or each element of a list, may be; a list may be empty
             also       a number that is right outside of the range
    """
    text = text.strip()
    if kind == "boolean":
        right = text.lower() in ("true", "false")
        return None if right else "Expected value to be either true or false"
    if kind in ("int", "long", "double"):
        return _number_problem(kind, text, low, high, also)
    parts = list_parts(text) if kind == "list" else [text]
    if choices and not set(parts) <= set(choices):
        return f"String must be one of: {', '.join(choices)}"
    return None


def _number_problem(
    kind: str, text: str, low: float | None, high: float | None, also: int | None
) -> str | None:
    form = DECIMAL if kind == "double" else INTEGER
    if not form.fullmatch(text):
        return f"Not a number of type {kind.upper()}"
    number = float(text) if kind == "double" else int(text)
    type_max = _TYPE_MAX.get(kind)
    if type_max is not None and not -type_max - 1 <= number <= type_max:
        return f"Not a number of type {kind.upper()}"
    if also is not None:
        assert low is not None
        assert high is not None
        right = number == also or low <= number <= high
        return None if right else f"Value must be between {low} and {high} or equal to {also}"
    if low is not None and number < low:
        return f"Value must be at least {low}"
    if high is not None and number > high:
        return f"Value must be no more than {high}"
    return None


def normalize(kind: str, text: str) -> str:
    """The text that is stored for a valid value: no blanks around it or its parts, booleans in
    lower case, integers without a plus or leading zeros."""
    text = text.strip()
    if kind in ("int", "long"):
        return str(int(text))
    if kind == "list":
        return ",".join(list_parts(text))
    return text.lower() if kind == "boolean" else text


def list_parts(text: str) -> list[str]:
    """The elements of the text of a list, without the empty ones."""
    return [part.strip() for part in text.split(",") if part.strip()]
