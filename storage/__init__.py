"""Storage: partition logs on disk, written through one seam, the `Disk` of storage/disk.py.

Depends on the standard library, crc32c and `kafka_protocol.record_batch` (the unit on disk),
and on nothing of rpk_py. liburing is imported in storage/uring.py alone.
"""
