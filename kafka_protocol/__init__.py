"""The Kafka protocol without I/O: schemas, frames, record batches and compression.

Every process uses it (shards, supervisor, command line) and none of it waits, logs or reads a
clock: bytes in, values or DecodeError out. It imports the standard library, crc32c and cramjam.
"""
