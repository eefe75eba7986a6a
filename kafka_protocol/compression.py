"""Compression of record batches: codec id -> inflate, deflate.

Decompression is bounded: an output above size_max is refused before or while it is made, so a
small hostile batch cannot fill the memory. Used by every process that looks inside a batch; the
produce and fetch paths do not, they pass batches through as they are.

Source: codec ids are bits 0-2 of the batch's attributes. gzip RFC 1952, LZ4 frame with independent
blocks (KIP-57), snappy in xerial's framing as the Java client writes it, zstd RFC 8878 (KIP-110).
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cramjam

from kafka_protocol.errors import DecodeError
from kafka_protocol.wire import Buffer

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
CODEC_NAMES = ("none", "gzip", "snappy", "lz4", "zstd")

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES = 32 * 1024
_INT32 = struct.Struct(">i")
_CAPACITY_MIN = 64 * 1024
_RATIO_GUESS = 8
_GZIP_WBITS = 31  # the gzip container around a 32 KiB window
_GZIP_PIECE_BYTES = 4096
_LZ4_RATIO_MAX = 255
_SNAPPY_RATIO_MAX = 22  # a copy of 64 bytes takes 3
_NO_ROOM = "failed to write whole buffer"  # Rust's io::Write::write_all


def compress(codec_id: int, data: Buffer) -> bytes:
    """Compress the records of a batch; codec 0 returns them as they are."""
    if codec_id == NONE:
        return bytes(data)
    if codec_id == GZIP:
        deflate = zlib.compressobj(wbits=_GZIP_WBITS)
        return deflate.compress(data) + deflate.flush()
    if codec_id == SNAPPY:
        return _compress_xerial(memoryview(data))
    if codec_id == LZ4:
        # Java's reader refuses blocks that refer to earlier ones.
        lz4 = cramjam.lz4.Compressor(block_linked=False)
        lz4.compress(bytes(data))
        return bytes(lz4.finish())
    if codec_id == ZSTD:
        return bytes(cramjam.zstd.compress(data))
    raise ValueError(f"unknown codec {codec_id}")


def decompress(codec_id: int, data: Buffer, size_max: int) -> Buffer:
    """Decompress the records of a batch.

    Returns: the bytes; for codec 0 the argument itself
    Raises:  DecodeError if the codec is unknown, the bytes are not of it, or there are more than
             size_max bytes of output
    """
    if codec_id == NONE:
        return data
    try:
        if codec_id == GZIP:
            return _gunzip(data, size_max)
        if codec_id == SNAPPY:
            return _decompress_snappy(memoryview(data), size_max)
        if codec_id == LZ4:
            bytes_max = min(size_max, _LZ4_RATIO_MAX * len(data) + 64)
            return _inflate_into(cramjam.lz4, data, bytes_max)
        if codec_id == ZSTD:
            return _inflate_into(cramjam.zstd, data, size_max)
    except (zlib.error, cramjam.DecompressionError, struct.error, ValueError) as error:
        name = CODEC_NAMES[codec_id]
        raise DecodeError(
            f"records are not valid {name} of up to {size_max} bytes: {error}"
        ) from error
    raise DecodeError(f"unknown compression codec {codec_id}")


def _gunzip(data: Buffer, size_max: int) -> bytes:
    out = bytearray()
    view = memoryview(data)
    pos = 0
    while pos < len(view):  # a gzip file may have several members
        inflate = zlib.decompressobj(wbits=_GZIP_WBITS)
        while not inflate.eof:
            # In pieces: zlib copies what follows the end of a member, and there may be as many
            # members as the input has times 20 bytes.
            piece = view[pos : pos + _GZIP_PIECE_BYTES]
            if not piece:
                raise ValueError("the input is truncated")
            out += inflate.decompress(piece, size_max - len(out) + 1)
            if len(out) > size_max:
                raise ValueError("the output is larger")
            pos += len(piece) - len(inflate.unused_data)
    return bytes(out)


def _inflate_into(codec: Any, data: Buffer, size_max: int) -> memoryview:
    """Decompress into a buffer that grows up to size_max: the frame need not say its size."""
    capacity = min(size_max, max(_CAPACITY_MIN, _RATIO_GUESS * len(data)))
    while True:
        out = bytearray(capacity)
        try:
            size = codec.decompress_into(data, out)
            return memoryview(out)[:size].toreadonly()
        except cramjam.DecompressionError as error:
            # Bad bytes are the same exception; only for want of room is more of it any use.
            if capacity == size_max or _NO_ROOM not in str(error):
                raise
            capacity = min(size_max, capacity * _RATIO_GUESS)


def _compress_xerial(data: memoryview) -> bytes:
    out = bytearray(_XERIAL_HEADER)
    for pos in range(0, len(data), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(data[pos : pos + _XERIAL_BLOCK_BYTES]))
        out += _INT32.pack(len(block))
        out += block
    return bytes(out)


def _decompress_snappy(data: memoryview, size_max: int) -> bytes:
    """Xerial's blocks where its magic is there, else one raw block (librdkafka)."""
    if data[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        return _decompress_snappy_block(data, size_max)
    out = bytearray()
    pos = len(_XERIAL_HEADER)
    while pos < len(data):
        (size,) = _INT32.unpack_from(data, pos)
        pos += 4
        if not 0 < size <= len(data) - pos:
            raise ValueError(f"block of {size} bytes")
        out += _decompress_snappy_block(data[pos : pos + size], size_max - len(out))
        pos += size
    return bytes(out)


def _decompress_snappy_block(block: memoryview, size_max: int) -> bytes:
    size = cramjam.snappy.decompress_raw_len(block)
    if size > size_max:
        raise ValueError("the output is larger")
    if size > _SNAPPY_RATIO_MAX * len(block) + 64:  # cramjam makes room for it before it looks
        raise ValueError(f"a block of {len(block)} bytes says that it has {size}")
    return bytes(cramjam.snappy.decompress_raw(block))
