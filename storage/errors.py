"""What can go wrong in storage. A message says what happened, where, and what to do about it.

Any process. These are for a person and for one mapping to Kafka error codes in each handler;
`OSError` stays itself where the failure is the operating system's and still has its errno.
"""

from __future__ import annotations


class StorageError(Exception):
    """Base of everything storage raises of its own."""


class CorruptRecord(StorageError):
    """Bytes that had been acknowledged are damaged. Nothing is cut: an operator decides."""


class ForeignDirectory(StorageError):
    """A directory with the name of a partition holds what is not known to be of that partition."""


class DiskFailed(StorageError):
    """A write or a sync failed. Final until restart: a retried sync can report false success."""


class DiskFull(DiskFailed):
    """No space left. For a write as final as any that fails, but its remedy is known; where the
    disk refused room before anything was written, the log only stalls."""


class LockTimeout(StorageError):
    """Somebody else holds the lock on a file that must be written by one process alone."""


class DiskUnavailable(StorageError):
    """The disk backend that the configuration names cannot be used on this machine."""


class Stopped(StorageError):
    """Work in the background was told to stop, before it had changed anything."""
