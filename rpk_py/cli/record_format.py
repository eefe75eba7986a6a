r"""rpk's format language: how records are printed, and how input is cut into records.

Which process: the operator's, in `topic produce` and `topic consume`. A format is compiled once
into functions; unknown verbs and modifiers are refused by name (click.UsageError), none is ignored.

    escapes   \t \n \r \\ \xNN       %% %{ %} stand for themselves
    output    %t %k %v text: {hex} {base64} {base64raw}
              %T %K %V %H lengths, %p %o %e %d %x %y %[ %| %] %i numbers: {ascii} {hex64..hex4}
              {big64..big8} {little64..little8} {byte} {bool}
              %d{strftime[...]} in UTC; %a{compression|timestamp-type|transactional-bit|control-bit}
              %h{...} once for each header, with %k %v %K %V inside
    input     %k %v with {hex} {base64}, %p; each ends at the text behind it

Invariants: what is not given to a modifier is printed as the raw bytes; nothing here waits.
Source: rpk's help of `topic consume` and `topic produce`; Go's and rpk's other modifiers (re, json,
unpack, go[...]) and sizes before values on input are left out.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import click

from kafka_protocol.compression import CODEC_NAMES
from kafka_protocol.record_batch import RecordHeaders

_ESCAPES = {"t": b"\t", "n": b"\n", "r": b"\r", "\\": b"\\"}
_LITERALS = {"%": b"%", "{": b"{", "}": b"}"}


@dataclass(slots=True)
class Shown:
    """What a format can print about one record; timestamp in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: RecordHeaders = ()
    leader_epoch: int = -1
    producer_id: int = -1
    producer_epoch: int = -1
    attributes: int = 0
    log_start_offset: int = -1
    last_stable_offset: int = -1
    high_watermark: int = -1
    index: int = 0


Printer = Callable[[Shown], bytes]

_NUMBERS: dict[str, Callable[[Shown], int]] = {
    "T": lambda r: len(r.topic.encode()),
    "K": lambda r: len(r.key or b""),
    "V": lambda r: len(r.value or b""),
    "H": lambda r: len(r.headers),
    "p": lambda r: r.partition,
    "o": lambda r: r.offset,
    "e": lambda r: r.leader_epoch,
    "d": lambda r: r.timestamp,
    "x": lambda r: r.producer_id,
    "y": lambda r: r.producer_epoch,
    "[": lambda r: r.log_start_offset,
    "|": lambda r: r.last_stable_offset,
    "]": lambda r: r.high_watermark,
    "i": lambda r: r.index,
}
_TEXTS: dict[str, Callable[[Shown], bytes]] = {
    "t": lambda r: r.topic.encode(),
    "k": lambda r: r.key or b"",
    "v": lambda r: r.value or b"",
}
_TEXT_MODIFIERS: dict[str, Callable[[bytes], bytes]] = {
    "hex": binascii.hexlify,
    "base64": base64.b64encode,
    "base64raw": lambda text: base64.b64encode(text).rstrip(b"="),
}
_ATTRIBUTE_VALUES: dict[str, Callable[[int], int]] = {
    "compression": lambda bits: bits & 7,
    "timestamp-type": lambda bits: bits >> 3 & 1,
    "transactional-bit": lambda bits: bits >> 4 & 1,
    "control-bit": lambda bits: bits >> 5 & 1,
}


class Verb(NamedTuple):
    """A percent escape and what stands in its braces."""

    letter: str
    modifier: str | None


def tokens(text: str) -> Iterator[bytes | Verb]:
    """The literal bytes and the verbs of a format, in order; click.UsageError if malformed."""
    literal = bytearray()
    pos = 0
    while pos < len(text):
        char = text[pos]
        if char == "\\":
            escape, pos = _escape(text, pos + 1)
            literal += escape
        elif char != "%":
            literal += char.encode("utf-8", "surrogateescape")
            pos += 1
        else:
            letter = text[pos + 1 : pos + 2]
            if not letter:
                raise _bad(text, "a lone % at the end; a percent sign is %%")
            pos += 2
            if letter in _LITERALS:
                literal += _LITERALS[letter]
                continue
            if literal:
                yield bytes(literal)
                literal.clear()
            modifier = None
            if text[pos : pos + 1] == "{":
                modifier, pos = _braces(text, pos)
            yield Verb(letter, modifier)
    if literal:
        yield bytes(literal)


def _escape(text: str, pos: int) -> tuple[bytes, int]:
    letter = text[pos : pos + 1]
    if letter == "x":
        digits = text[pos + 1 : pos + 3]
        if not re.fullmatch(r"[0-9a-fA-F]{2}", digits):
            raise _bad(text, r"\x takes two hex digits")
        return bytes.fromhex(digits), pos + 3
    if letter not in _ESCAPES:
        raise _bad(text, f"unknown escape \\{letter}; known are \\t \\n \\r \\\\ \\xNN")
    return _ESCAPES[letter], pos + 1


def _braces(text: str, pos: int) -> tuple[str, int]:
    """What stands between the brace at pos and its partner; (text, position behind it)."""
    depth, start = 0, pos + 1
    while pos < len(text):
        if text[pos] == "%" and text[pos + 1 : pos + 2] in ("{", "}", "%"):
            pos += 1  # an escaped brace does not count
        else:
            depth += {"{": 1, "}": -1}.get(text[pos], 0)
            if depth == 0:
                return text[start:pos], pos + 1
        pos += 1
    raise _bad(text, "a brace is not closed")


def _bad(text: str, why: str) -> click.UsageError:
    return click.UsageError(f"--format {text!r}: {why}")


# --- output ----------------------------------------------------------------------------------


def output_format(text: str) -> Printer:
    """Compile an output format: record -> the bytes to print."""
    printers = [
        _constant(token) if isinstance(token, bytes) else _printer(text, token)
        for token in tokens(text)
    ]
    if len(printers) == 1:
        return printers[0]
    return lambda record: b"".join([show(record) for show in printers])


def _constant(text: bytes) -> Printer:
    return lambda _record: text


def _printer(text: str, verb: Verb) -> Printer:
    letter, modifier = verb
    if letter in _TEXTS:
        read_text = _TEXTS[letter]
        if modifier is None:
            return read_text
        encode = _TEXT_MODIFIERS.get(modifier)
        if encode is None:
            raise _unknown(text, verb, _TEXT_MODIFIERS)
        return lambda record: encode(read_text(record))
    if letter == "h":
        if modifier is None:
            raise _bad(text, "%h needs the format of a header in braces, like %h{%k=%v }")
        show = _header_format(modifier)
        return lambda record: b"".join([show(name, value) for name, value in record.headers])
    if letter == "a":
        return _attribute(text, verb)
    if letter in _NUMBERS:
        read = _NUMBERS[letter]
        if letter == "d" and modifier is not None and modifier.startswith("strftime"):
            return _date(text, modifier.removeprefix("strftime"))
        encode_number = _number(text, verb, modifier)
        return lambda record: encode_number(read(record))
    known = " ".join(f"%{each}" for each in (*_TEXTS, *_NUMBERS, "h", "a"))
    raise _bad(text, f"unknown verb %{letter}; known are {known} and %% %{{ %}}")


def _unknown(text: str, verb: Verb, known: Iterable[str]) -> click.UsageError:
    names = ", ".join(known)
    return _bad(text, f"unknown modifier {{{verb.modifier}}} of %{verb.letter}; known are {names}")


def _attribute(text: str, verb: Verb) -> Printer:
    name, _, number = (verb.modifier or "").partition(";")
    if name not in _ATTRIBUTE_VALUES:
        raise _unknown(text, verb, _ATTRIBUTE_VALUES)
    value_of = _ATTRIBUTE_VALUES[name]
    if name == "compression" and not number:
        names = [*(each.encode() for each in CODEC_NAMES), b"5", b"6", b"7"]
        return lambda record: names[value_of(record.attributes)]
    encode = _number(text, verb, number or None)
    return lambda record: encode(value_of(record.attributes))


def _date(text: str, wrapped: str) -> Printer:
    """strftime's format between brackets, braces or #, however many, in UTC."""
    found = re.fullmatch(r"(\[+|\{+|#+)(.*?)(\]+|\}+|#+)", wrapped, re.DOTALL)
    if not found or len(found[1]) != len(found[3]):
        raise _bad(text, "%d{strftime[...]} takes strftime's format in brackets")
    layout = found[2]

    def show(record: Shown) -> bytes:
        try:
            at = datetime.fromtimestamp(record.timestamp / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            return str(record.timestamp).encode()  # no such date
        return at.strftime(layout).encode()

    return show


def _number(text: str, verb: Verb, modifier: str | None) -> Callable[[int], bytes]:
    """How a number is printed; it is cut to as many bits as the modifier has."""
    if modifier in (None, "ascii"):
        return lambda value: b"%d" % value
    if modifier == "bool":
        return lambda value: b"true" if value else b"false"
    found = re.fullmatch(
        r"(hex|big|little)(64|32|16|8|4)", "big8" if modifier == "byte" else modifier or ""
    )
    if not found or (found[2] == "4" and found[1] != "hex"):
        raise _unknown(text, verb, _NUMBER_MODIFIERS)
    bits = int(found[2])
    mask = (1 << bits) - 1
    if found[1] == "hex":
        return lambda value: b"%0*x" % (bits // 4, value & mask)
    if found[1] == "big":
        return lambda value: (value & mask).to_bytes(bits // 8, "big")
    return lambda value: (value & mask).to_bytes(bits // 8, "little")


_NUMBER_MODIFIERS = (
    *("ascii", "bool", "byte", "hex64", "hex32", "hex16", "hex8", "hex4"),
    *("big64", "big32", "big16", "big8", "little64", "little32", "little16", "little8"),
)


def _header_format(text: str) -> Callable[[str, bytes | None], bytes]:
    """Compile what stands in %h{...}: (name, value) -> the bytes to print."""
    for token in tokens(text):
        if isinstance(token, Verb) and token.letter not in "kvKV":
            raise _bad(text, f"unknown verb %{token.letter} inside %h; known are %k %v %K %V")
    show = output_format(text)
    return lambda name, value: show(Shown("", 0, 0, 0, name.encode(), value))


# --- input -----------------------------------------------------------------------------------


class Parsed(NamedTuple):
    """One record of the input; None is what the format does not have."""

    key: bytes | None
    value: bytes | None
    partition: int | None


class BadInput(Exception):
    """The input does not match the format, or a record is larger than allowed."""


class InputFormat:
    """Cuts a stream of bytes into records.

    feed() takes the next bytes and yields the records that are whole; finish() yields what the end
    of the input completes: a last record may lack the text behind its last field.
    """

    def __init__(self, text: str, record_bytes_max: int) -> None:
        self._prefix = b""
        self._fields: list[tuple[str, Callable[[bytes], bytes] | None, bytes]] = []
        self._record_bytes_max = record_bytes_max
        self._rest = b""
        for token in tokens(text):
            if isinstance(token, Verb):
                if self._fields and not self._fields[-1][2]:
                    raise _bad(text, "text must stand between two verbs, to tell them apart")
                self._fields.append((token.letter, _decoder(text, token), b""))
            elif not self._fields:
                self._prefix = token
            else:
                letter, decode, _ = self._fields[-1]
                self._fields[-1] = (letter, decode, token)
        letters = [letter for letter, _, _ in self._fields]
        if not letters or len(set(letters)) != len(letters):
            raise _bad(text, "it needs %k, %v or %p, each once at most")

    @property
    def rest_bytes(self) -> int:
        """Bytes of a record that is not whole yet."""
        return len(self._rest)

    @property
    def has_partition(self) -> bool:
        """Whether records name their partition (%p)."""
        return any(letter == "p" for letter, _, _ in self._fields)

    def feed(self, data: bytes) -> list[Parsed]:
        """The records that these bytes complete; BadInput if they match no record."""
        buf = self._rest + data if self._rest else data
        letter, decode, delimiter = self._fields[0]
        if len(self._fields) == 1 and letter == "v" and not (self._prefix or decode):
            if not delimiter:
                values = []
                self._rest = buf
            else:
                *values, self._rest = buf.split(delimiter)
            records = [Parsed(None, value, None) for value in values]
        else:
            records = []
            pos = 0
            while (found := self._record(buf, pos, False)) is not None:
                record, pos = found
                records.append(record)
            self._rest = buf[pos:]
        if len(self._rest) > self._record_bytes_max:
            raise BadInput(f"a record of the input has more than {self._record_bytes_max} bytes")
        return records

    def finish(self) -> list[Parsed]:
        """The record that the end of the input completes, if there is a part of one."""
        if not self._rest:
            return []
        found = self._record(self._rest, 0, True)
        if found is None:
            raise BadInput(f"the input ends inside a record: {self._rest[:60]!r}")
        self._rest = b""
        return [found[0]]

    def _record(self, buf: bytes, pos: int, is_end: bool) -> tuple[Parsed, int] | None:
        """The record at pos and the position behind it; None if it is not whole."""
        if pos >= len(buf):
            return None
        if self._prefix:
            if not buf.startswith(self._prefix, pos):
                if not is_end and self._prefix.startswith(buf[pos:]):
                    return None
                raise BadInput(f"{buf[pos : pos + 60]!r} does not begin with {self._prefix!r}")
            pos += len(self._prefix)
        key = value = partition = None
        last = len(self._fields) - 1
        for index, (letter, decode, delimiter) in enumerate(self._fields):
            end = buf.find(delimiter, pos) if delimiter else -1
            if end < 0:
                if not (is_end and index == last):
                    return None
                end, delimiter = len(buf), b""
            text = buf[pos:end]
            pos = end + len(delimiter)
            if decode is not None:
                text = decode(text)
            if letter == "k":
                key = text
            elif letter == "v":
                value = text
            else:
                partition = int(text)
        return Parsed(key, value, partition), pos


def _decoder(text: str, verb: Verb) -> Callable[[bytes], bytes] | None:
    if verb.letter == "p" and verb.modifier is None:
        return _digits
    if verb.letter not in ("k", "v"):
        raise _bad(text, f"%{verb.letter} is not read from the input here; known are %k %v %p")
    if verb.modifier is None:
        return None
    if verb.modifier not in ("hex", "base64"):
        raise _unknown(text, verb, ("hex", "base64"))
    convert = binascii.unhexlify if verb.modifier == "hex" else _from_base64

    def decode(data: bytes) -> bytes:
        try:
            return convert(data)
        except ValueError as error:
            raise BadInput(f"{data[:60]!r} is not {verb.modifier}: {error}") from error

    return decode


def _from_base64(data: bytes) -> bytes:
    return base64.b64decode(data, validate=True)


def _digits(data: bytes) -> bytes:
    if not (data.isdigit() and len(data) < 10):
        raise BadInput(f"{data[:60]!r} is no number of a partition")
    return data
