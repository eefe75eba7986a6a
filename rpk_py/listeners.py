"""Listening sockets: all bound before anything is forked, a taken port named with its owner.

Which process: supervisor.  It keeps the sockets open as long as the broker serves, so clients of
a shard that is being restarted wait in the kernel's backlog instead of being refused.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from rpk_py.config import Config
from rpk_py.startup_error import StartupError

_TCP_LISTEN = "0A"


def bind_shards(config: Config) -> list[socket.socket]:
    """One listening socket a shard, on kafka_port + shard index (port 0: a free one each).

    Raises: StartupError
    """
    sockets: list[socket.socket] = []
    try:
        for index in range(config.smp):
            port = config.kafka_port + index if config.kafka_port else 0
            sockets.append(bind(config.kafka_host, port, config.listen_backlog, "--kafka-addr"))
    except StartupError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def bind(host: str, port: int, backlog: int, option: str) -> socket.socket:
    """A non-blocking listening TCP socket.

    Raises: StartupError  naming the address, the owner of a taken port, and the option to change
    """
    where = f"{bracketed(host)}:{port}"
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except socket.gaierror as error:
        raise StartupError(f"cannot resolve {host} of {option}: {error.strerror}") from None
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        bound.bind(address)
        bound.listen(backlog)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise StartupError(
                f"{where} is already in use by {port_owner(port)}"
                f" (choose another address with {option})"
            ) from None
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StartupError(f"cannot listen on {where} of {option}: {reason}") from None
    return bound


def bracketed(host: str) -> str:
    """A host as it stands in HOST:PORT."""
    return f"[{host}]" if ":" in host else host


def address_of(bound: socket.socket) -> str:
    """HOST:PORT that a socket is bound to."""
    host, port = bound.getsockname()[:2]
    return f"{bracketed(host)}:{port}"


def port_owner(port: int) -> str:
    """Who listens on a TCP port, from /proc: "pid 12 (name)" where that may be seen."""
    own = str(os.getpid())
    inodes = set()
    for table in ("tcp", "tcp6"):
        try:
            rows = Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            if columns[3] == _TCP_LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) in inodes:
                    if process.name == own:
                        return "this broker itself: another of its listeners has this port"
                    name = (process / "comm").read_text(encoding="utf-8", errors="replace")
                    return f"pid {process.name} ({name.strip()})"
        except OSError:
            continue  # it ended meanwhile, or belongs to someone else
    return "another process"
