"""Where settings come from: defaults, a TOML file, the environment, flags; the later one wins.

Which process: supervisor, before it touches anything.  Invariants: every value that is not a
default has a place, and an error names it; a name that is no setting is an error in every source,
so a typing mistake never leaves a default in force unseen.
An address is two settings, a host and a port; in every source the three names of ADDRESSES stand
for both as HOST:PORT, and HOST alone leaves the port to itself.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rpk_py.config import SETTINGS, SHARDS_PER_HOST_MAX, Config, parse_setting
from rpk_py.setting import ConfigError, shown
from rpk_py.startup_error import StartupError

ENVIRONMENT_PREFIX = "RPK_"
CONFIG_VARIABLE = "RPK_CONFIG"
AUTO = "auto"  # of smp: a shard a usable core
# Not settings of the broker: the file, what client commands connect to, and the project's tests.
_RESERVED_VARIABLES = (CONFIG_VARIABLE, "RPK_BROKERS")
_RESERVED_PREFIX = "RPK_PY_"
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "Path": (str,),
}


class Address(NamedTuple):
    """Two settings that may be written as one."""

    host: str
    port: str
    meaning: str


ADDRESSES = {
    "kafka_addr": Address(
        "kafka_host", "kafka_port", "address to listen on for Kafka clients; port 0: a free one"
    ),
    "advertise_kafka_addr": Address(
        "advertise_host", "advertise_port", "address that clients are told to connect to"
    ),
    "admin_addr": Address(
        "admin_host", "admin_port", "address to listen on for HTTP; port 0: a free one"
    ),
}
NAMES = (*SETTINGS, *ADDRESSES)


class Loaded(NamedTuple):
    """A configuration and where each setting that is not a default came from."""

    config: Config
    places: dict[str, str]


class _Given(NamedTuple):
    """One value as it is written; `place` is what an error and --print-config call it."""

    name: str
    value: Any
    place: str


def load(
    flags: Mapping[str, str],
    assignments: Iterable[str],
    environment: Mapping[str, str],
    file: Path | None,
    usable_cores: Callable[[], int],
) -> Loaded:
    """The configuration that all sources together mean.

    Shapes:  flags        name -> text of --name
             assignments  NAME=VALUE of each --set; flags win over them
             file         TOML; None: the one that RPK_CONFIG names, if any
             usable_cores  what smp=auto means
    Raises:  ConfigError   a setting is wrong
             StartupError  the file cannot be read
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    option = "--config"
    if file is None and environment.get(CONFIG_VARIABLE):
        file, option = Path(environment[CONFIG_VARIABLE]), CONFIG_VARIABLE
    for source, parse in (
        (_from_file(file, option) if file else (), _check_type),
        (_from_environment(environment), parse_setting),
        (_from_assignments(assignments), parse_setting),
        (_from_flags(flags), parse_setting),
    ):
        _apply(source, parse, values, places)
    if values.get("smp") == AUTO:
        values["smp"] = min(usable_cores(), SHARDS_PER_HOST_MAX)
        places["smp"] += ", auto"
    try:
        config = Config(**values)
    except ConfigError as error:
        raise error.at(places) from None
    absolute = config.data_dir.absolute()  # the process may not stay where it was started
    return Loaded(dataclasses.replace(config, data_dir=absolute), places)


def as_toml(loaded: Loaded) -> str:
    """The configuration in effect as a TOML file, every value with its place and its meaning.

    Loading it gives the same configuration, except that an unset value is left to its default.
    """
    lines = ["# The configuration in effect. Each value: where it comes from | what it means."]
    for setting in SETTINGS.values():
        if setting.section is not None:
            lines += ["", f"# {setting.section}"]
        value = getattr(loaded.config, setting.name)
        place = loaded.places.get(setting.name, "default")
        unit = f" ({setting.unit})" if setting.unit else ""
        text = f"# {setting.name} is unset" if value is None else f"{setting.name} = {_toml(value)}"
        lines.append(f"{text}  # {place} | {setting.meaning}{unit}")
    return "\n".join(lines) + "\n"


def parse_address(name: str, text: str) -> tuple[str, int | None]:
    """Split HOST:PORT or [IPV6]:PORT; the port is None for HOST alone.

    Raises: ConfigError  naming `name` when the host is empty or the port is not 0..65535
    """
    expected = "must be HOST:PORT, like 127.0.0.1:9092 or [::1]:9092"
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError(name, text, expected)
        port_text = rest[1:] if rest else None
    else:
        host, colon, after = text.rpartition(":")
        port_text = after if colon else None
        host = host if colon else text
        if ":" in host:
            raise ConfigError(name, text, "an IPv6 address is written in brackets: [::1]:9092")
    if not host or (port_text is None and host.isdigit()):  # a port alone, its host forgotten
        raise ConfigError(name, text, expected)
    if port_text is None:
        return host, None
    if not (port_text.isascii() and port_text.isdigit() and int(port_text) <= 65535):
        raise ConfigError(name, text, expected)
    return host, int(port_text)


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return ENVIRONMENT_PREFIX + name.upper()


# The sources.


def _from_file(path: Path, option: str) -> Iterator[_Given]:
    import tomllib  # only with a file: a start is short

    where = shown(path)
    try:
        text = _text_of(path)
        table = tomllib.loads(text)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise StartupError(f"the configuration file {where} of {option} {reason}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML
        raise StartupError(f"the configuration file {where} is not valid TOML: {error}") from None
    for name, value in table.items():
        yield _Given(name, value, f"{where}{_line_of(name, text)}")


def _text_of(path: Path) -> str:
    """The text of a regular file, with or without a mark of its byte order.

    Raises: OSError  it cannot be read, or reading it could wait for ever
            ValueError  it is not UTF-8
    """
    # Without O_NONBLOCK, to open a FIFO is to wait for its writer.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, encoding="utf-8-sig") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read()


def _line_of(name: str, text: str) -> str:
    """ ":12", the line that assigns a key; tomllib does not say."""
    key = re.compile(rf"\s*[\"']?{re.escape(name)}[\"']?\s*[=.]")
    for number, line in enumerate(text.splitlines(), 1):
        if key.match(line) or line.strip().startswith(f"[{name}"):
            return f":{number}"
    return ""


def _from_environment(environment: Mapping[str, str]) -> Iterator[_Given]:
    known = {variable_of(name): name for name in NAMES}
    for variable, value in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable.startswith(_RESERVED_PREFIX):
            continue
        if variable in known:
            yield _Given(known[variable], value, variable)
        elif variable not in _RESERVED_VARIABLES:
            all_known = [*known, *_RESERVED_VARIABLES]
            raise _no_such(variable, value, "the environment", all_known)


def _from_assignments(assignments: Iterable[str]) -> Iterator[_Given]:
    given: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError("--set", assignment, "must be NAME=VALUE")
        given[name] = text  # the last one wins, as with other options
    return (_Given(name, text, "--set") for name, text in given.items())


def _from_flags(flags: Mapping[str, str]) -> Iterator[_Given]:
    return (_Given(name, text, flag_of(name)) for name, text in flags.items())


def flag_of(name: str) -> str:
    """The command line option of a setting that has one."""
    return "--" + name.replace("_", "-")


# From what is written to values of Config.


def _apply(
    source: Iterable[_Given],
    parse: Callable[[str, Any], Any],
    values: dict[str, Any],
    places: dict[str, str],
) -> None:
    """Let one source override what the sources before it said."""
    written: dict[str, _Given] = {}
    for given in source:
        try:
            meant = _meant(given, parse)
        except ConfigError as error:
            raise error.at({given.name: given.place}) from None
        for name, value in meant:
            if name in written:
                first = written[name]
                expected = f"the same source says it already, by {first.name}"
                here = {given.name: given.place}
                raise ConfigError(given.name, given.value, expected, places=here)
            written[name] = given
            setting = SETTINGS[name]
            if value != AUTO and not setting.is_valid(value):  # though a later source overrides it
                here = {name: given.place}
                raise ConfigError(name, value, setting.expected, places=here)
            values[name] = value
            places[name] = given.place


def _meant(given: _Given, parse: Callable[[str, Any], Any]) -> list[tuple[str, Any]]:
    """The settings that one written value is about."""
    name, value, place = given
    if name in ADDRESSES:
        if not isinstance(value, str):
            raise ConfigError(name, _toml(value), "must be text, HOST:PORT")
        address = ADDRESSES[name]
        host, port = parse_address(name, value)
        return [(address.host, host)] + ([] if port is None else [(address.port, port)])
    if name not in SETTINGS:
        raise _no_such(name, value, place, NAMES)
    if name == "smp" and value == AUTO:
        return [(name, value)]
    return [(name, parse(name, value))]


def _check_type(name: str, value: Any) -> Any:
    """A TOML value as the value that Config takes.  Raises ConfigError."""
    setting = SETTINGS[name]
    if isinstance(value, str) and setting.kind in ("str", "Path"):
        return parse_setting(name, value)
    fits = isinstance(value, _TYPES[setting.kind])
    if not fits or isinstance(value, bool) != (setting.kind == "bool"):
        raise ConfigError(name, _toml(value), f"must be {setting.type_words}")
    return value


def _no_such(name: str, value: object, place: str, known: Iterable[str]) -> ConfigError:
    import difflib  # only for an error

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "rpk-py start --print-config lists all"
    return ConfigError(name, value, f"there is no such setting; {hint}", places={name: place})


def _toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | os.PathLike):
        return json.dumps(str(value), ensure_ascii=False)
    return str(value)
