"""The supervisor: starts the shards, restarts those that die, hosts the controller and admin HTTP.

Which process: this one, a plain asyncio process that never touches a record.
Start: lock the data directory, probe the disk backend, bind every port, commit the leader epochs,
fork the shards (before any loop or thread exists), and only then run a loop.
Invariants: shards serve only after their leader epochs are committed; a fork happens only while
the controller is quiesced; a shard never outlives this process; a shard that hangs while changes
wait for it is killed, which starts it again; SIGTERM and SIGINT stop gracefully, a second one at
once; an exception that nobody foresaw ends the broker.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kafka_protocol.errors import ErrorCode
from rpk_py import data_dir, exposition, listeners, shard_link
from rpk_py.admin import AdminServer
from rpk_py.broker_configs import effective_config
from rpk_py.config import Config
from rpk_py.file_limit import raise_file_limit
from rpk_py.lag_series import gather_lags
from rpk_py.log_setup import Log, log_loop_problems, make_logger
from rpk_py.metadata.channel import ChannelError
from rpk_py.metadata.controller import Controller
from rpk_py.metadata.placement import leader_counts
from rpk_py.metadata.requests import refusal
from rpk_py.metadata.state import ClusterState, Json
from rpk_py.metadata.store import StoreError
from rpk_py.prepare import STATUS_FILE, Prepared, prepare, random_id
from rpk_py.shard_link import ShardLink
from rpk_py.shard_process import FATAL_EXIT, ShardEntry, fork_shard
from rpk_py.startup_error import StartupError
from rpk_py.tasks import Tasks, first_of
from storage.disk import write_file_atomic

KILLED_S_MAX = 5.0  # a killed shard is gone by then, unless the kernel waits for its disk
SILENT_CHECKS_MAX = 4  # looks at a shard that is behind, before it counts as hung


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    """What a broker that is ready says about itself (banner, broker.json, status)."""

    pid: int
    data_dir: Path
    kafka: list[str]  # HOST:PORT of each shard's listener
    cores: list[int | None]  # that each shard is pinned to; None: not pinned
    admin: str
    shard_pids: list[int]
    disk: str  # backend and whether it bypasses the page cache, in the shard's words
    caching_nodes: list[int]  # where write caching is in force for topics that do not say
    caching_topics: int  # that say it themselves


def run(config: Config, entry: ShardEntry, on_ready: Callable[[BrokerInfo], None]) -> int:
    """Run a broker until it is stopped.

    entry     runs in each forked shard
    on_ready  called once, when all shards serve for the first time
    Returns:  the exit code
    Raises:   StartupError  nothing was started; the message is for the operator
    """
    if not __debug__:
        raise StartupError("rpk-py checks its invariants with assert: start it without python -O")
    log = make_logger(config)
    prepared = prepare(config, log)
    follow_log_level(log, config, prepared.state)
    led = leader_counts(prepared.state.topics.values(), config.node_ids)
    few_files = partial(log.report, "the limit of open files is low")
    raise_file_limit(config, max(led.values()), few_files)
    supervisor = Supervisor(prepared, entry, on_ready, log)
    supervisor.fork_all()
    return asyncio.run(supervisor.serve())


def follow_log_level(log: Log, config: Config, state: ClusterState) -> None:
    """Log from the level that is set for all nodes; the supervisor is none of them."""
    log.set_level(effective_config(config, state.broker_configs, None).log_level)


class Supervisor:
    """See the module.  Built before the fork, `serve` runs in the loop after it."""

    def __init__(
        self,
        prepared: Prepared,
        entry: ShardEntry,
        on_ready: Callable[[BrokerInfo], None],
        log: Log,
    ) -> None:
        self._config = prepared.config
        self._prepared = prepared  # keeps sockets and locks open, also in forked children
        self._state = prepared.state
        self._entry = entry
        self._on_ready = on_ready
        self._log = log
        self._shards = [
            ShardLink(index, listener, core, self._config, self._snapshot)
            for index, (listener, core) in enumerate(
                zip(prepared.kafka, prepared.cores, strict=True)
            )
        ]
        self._controls: dict[int, tuple[int, socket.socket]] = {}  # of those forked before a loop
        self._tasks = Tasks(self._task_failed)
        self._stop_wanted = asyncio.Event()
        self._all_dead = asyncio.Event()
        self._kill_wanted = asyncio.Event()
        self._exit_code = 0
        self._announced = False
        self._journals_begun = False  # what dead shards left in theirs is in segments
        self._started_s = time.monotonic()
        self._controller: Controller
        self._admin: AdminServer

    def fork_all(self) -> None:
        """Start all shards; before any loop or thread exists."""
        gc.freeze()  # shared memory stays shared: the shards' collectors do not touch it
        gc.enable()  # it was off while nothing but imports made objects
        for shard in self._shards:
            self._controls[shard.index] = self._fork(shard)

    def _fork(self, shard: ShardLink) -> tuple[int, socket.socket]:
        """A new life of a shard: its process, and our end of its control channel."""
        pid, control = fork_shard(
            self._entry,
            self._config,
            shard.index,
            shard.listener,
            self._prepared.lock_fd,
            shard.core,
            self._journals_begun,
            self._log,
        )
        shard.begin(pid)
        self._all_dead.clear()
        return pid, control

    async def serve(self) -> int:
        """Supervise until a signal or a fatal error; returns the exit code."""
        loop = asyncio.get_running_loop()
        log_loop_problems(loop, self._log)
        self._controller = Controller(
            self._config,
            self._state,
            self._prepared.store,
            random_id,
            self._log,
            self._task_failed,
        )
        self._controller.open_store_soon()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._admin = AdminServer(
            self._config, self.status, self.metrics, self.group_history, self._log
        )
        await self._admin.start(self._prepared.admin)
        for shard in self._shards:
            self._expect(shard)
            shard.serving = self._tasks.spawn(
                self._serve_shard(shard, *self._controls.pop(shard.index))
            )
        watch = self._tasks.spawn(self._end_hung_shards())
        self._reap()  # those that died before the handler stood
        await self._stop_wanted.wait()
        watch.cancel()  # a stop has a time limit of its own
        await self._stop()
        return self._exit_code

    # The life of a shard.

    async def _serve_shard(self, shard: ShardLink, pid: int, control: socket.socket) -> None:
        async def on_message(message: Json) -> None:
            if shard.pid == pid:  # what a dead shard has left in its socket counts no more
                await self._on_message(shard, message)

        try:
            await shard.run(control, on_message)
        except (ChannelError, ValueError, KeyError) as error:
            self._log.error("a shard broke the control channel", reason=repr(error))
        if not self._stop_wanted.is_set() and shard.pid == pid:
            # A shard without its channel cannot be commanded any more, so it must not serve.
            shard.kill()

    async def _on_message(self, shard: ShardLink, message: Json) -> None:
        kind = message["type"]
        if kind == "request":
            if shard.requests_open >= self._config.control_requests_max:
                shard.send(_reply(message, refusal(ErrorCode.REQUEST_TIMED_OUT, "Too busy.")))
            else:
                self._tasks.spawn(self._answer(shard, message))
        elif kind == "applied":
            self._controller.acknowledge(shard.node_id, message["revision"])
        elif kind == "hello":
            shard.state = shard_link.RECOVERING
            self._controller.attach(shard.node_id, shard)
        elif kind == "snapshot_request":
            shard.send_snapshot()
        elif kind == "metrics":
            shard.metrics_arrived(message)
        elif kind == "answer":
            shard.answered(message)
        elif kind == "alive":
            shard.recovery = message.get("recovery", {})
        elif kind == "storage":
            shard.storage = message["level"]
        elif kind == "ready":
            shard.state = shard_link.READY
            self._controller.serves(shard.node_id)
            shard.info, shard.recovery = message["info"], {}
            shard.ready_since_s = asyncio.get_running_loop().time()
            if shard.overdue is not None:
                shard.overdue.cancel()
                shard.overdue = None
            say = self._log.info if self._announced else self._log.debug  # the banner says it too
            say("a shard is ready", node_id=shard.node_id, pid=shard.pid)
            await self._announce()
        else:
            raise ChannelError(f"unknown message {kind}")

    async def _answer(self, shard: ShardLink, message: Json) -> None:
        pid = shard.pid
        shard.requests_open += 1
        op = str(message.get("op"))
        shard.requests[op] = shard.requests.get(op, 0) + 1
        try:
            answer = await self._controller.handle(message)
        except Exception:
            self._log.exception("a metadata request failed", op=message.get("op"))
            text = "The controller failed; its log says why."
            answer = refusal(ErrorCode.UNKNOWN_SERVER_ERROR, text)
        finally:
            shard.requests_open -= 1
        if op == "alter_configs":
            follow_log_level(self._log, self._config, self._state)
        self._log.debug("a metadata request is answered", op=op, node_id=shard.node_id)
        if shard.pid != pid:
            return  # a successor has request ids of its own
        if not shard.send(_reply(message, answer)):
            text = "It is done, but the answer is too large to be sent (control_frame_bytes_max)."
            shard.send(_reply(message, refusal(ErrorCode.UNKNOWN_SERVER_ERROR, text)))

    async def _announce(self) -> None:
        """Once all shards serve: broker.json, and the first time the banner."""
        if self._stop_wanted.is_set() or not self._ready():
            return
        info = self._info()
        status = {
            "pid": info.pid,
            "kafka_addr": info.kafka[0],
            "kafka_addrs": info.kafka,
            "admin_addr": info.admin,
            "shards": info.shard_pids,
        }
        data = json.dumps(status).encode()
        try:
            write_file_atomic(self._config.data_dir / STATUS_FILE, data)
        except OSError as error:
            self._log.warning("cannot write broker.json", reason=str(error))
        self._let_journals_begin()
        if not self._announced:
            self._announced = True
            self._on_ready(info)

    def _let_journals_begin(self) -> None:
        """All shards serve, so segments hold what journals held, unless a partition is offline."""
        if any(shard.info.get("journals_needed") for shard in self._shards):
            return
        if not self._journals_begun:
            self._journals_begun = True
            try:
                data_dir.drop_unused_journals(self._config.data_dir, self._config.node_ids)
            except OSError as error:
                self._log.warning("cannot remove a journal", reason=str(error))
        for shard in self._shards:
            shard.send({"type": "all_ready"})

    def _reap(self) -> None:
        for shard in self._shards:
            code = shard.reap()
            if code is None:
                continue
            shard.state = shard_link.DEAD
            self._controller.detach(shard.node_id)
            if self._stop_wanted.is_set():
                self._log.debug("a shard ended", node_id=shard.node_id, code=code)
                if code:
                    self._exit_code = self._exit_code or 1
            elif code == FATAL_EXIT:
                self._log.error("a shard cannot run", node_id=shard.node_id)
                self._fail()
            else:
                shard.ended_by = f"signal {-code}" if code < 0 else f"exit code {code}"
                self._expect(shard)
                self._tasks.spawn(self._restart(shard))
        if all(shard.pid is None for shard in self._shards):
            self._all_dead.set()

    async def _restart(self, shard: ShardLink) -> None:
        """Bring a dead shard back, with new leader epochs, from a new fork: at once if it had
        lived, after a growing delay if it keeps dying."""
        longest_s = self._config.restart_backoff_s_max
        now_s = asyncio.get_running_loop().time()
        if shard.ready_since_s is not None and now_s - shard.ready_since_s > longest_s:
            shard.backoff_s = 0.0
        shard.ready_since_s = None
        self._log.error(
            "a shard died and is started again",
            node_id=shard.node_id,
            ended_by=shard.ended_by,
            delay_s=shard.backoff_s,
        )
        if shard.serving is not None:
            await asyncio.wait([shard.serving])  # its channel ends with it
        while True:
            await asyncio.sleep(shard.backoff_s)
            again_s = max(2 * shard.backoff_s, self._config.restart_backoff_s)
            shard.backoff_s = min(again_s, longest_s)
            try:
                await self._controller.take_leadership(shard.node_id)
                life = await self._fork_again(shard)
                break
            except (StoreError, OSError) as error:
                self._log.error("a shard cannot be started yet", reason=str(error))
        if life is not None:
            shard.restarts += 1
            shard.serving = self._tasks.spawn(self._serve_shard(shard, *life))

    async def _end_hung_shards(self) -> None:
        """Kill a shard that owes an acknowledgement and gives no sign of life; it is then started
        again.  Whoever changes something would wait for it, and what it serves may be outdated.

        A shard says every now and then that its loop turns.  Its silence is counted in looks and
        not in time: when all of us were suspended, one look finds nothing, and the next one does.
        """
        while True:
            await asyncio.sleep(self._config.shard_silent_s_max / SILENT_CHECKS_MAX)
            for shard in self._shards:
                if shard.heard or not self._controller.is_behind(shard.node_id):
                    shard.silent_checks = 0
                else:
                    shard.silent_checks += 1
                shard.heard = False
                if shard.silent_checks == SILENT_CHECKS_MAX:
                    shard.hung_count += 1
                    self._log.error(
                        "a shard hangs: it is killed",
                        node_id=shard.node_id,
                        pid=shard.pid,
                        silent_s=self._config.shard_silent_s_max,
                    )
                    shard.kill()
                    self._controller.detach(shard.node_id)  # it serves no more, reaped or not

    def _expect(self, shard: ShardLink) -> None:
        """Leave a shard out of Metadata if it does not serve in time.

        Until then its clients wait in the backlog of its listener, which the supervisor keeps
        open; that is shorter for them than to look for another leader and not to find one.
        """
        if shard.overdue is None:
            shard.overdue = asyncio.get_running_loop().call_later(
                self._config.restart_backoff_s_max,
                lambda: self._tasks.spawn(self._leave_out(shard)),
            )

    async def _leave_out(self, shard: ShardLink) -> None:
        shard.overdue = None  # its next life has a time of its own
        while shard.state != shard_link.READY and not self._stop_wanted.is_set():
            try:
                if await self._controller.leave_out(shard.node_id):
                    self._log.warning(
                        "a shard does not serve: its partitions have no leader until it does",
                        node_id=shard.node_id,
                        status=shard.state,
                    )
                return
            except StoreError as error:
                self._log.error("a shard cannot be left out of Metadata", reason=str(error))
                await asyncio.sleep(self._config.restart_backoff_s_max)

    async def _fork_again(self, shard: ShardLink) -> tuple[int, socket.socket] | None:
        """Fork while nothing but this thread exists; None: the broker stops.

        From a plain callback of the loop and not from this task, because the child runs a loop
        of its own and must not find itself inside a task of ours.
        """
        loop = asyncio.get_running_loop()
        forked: asyncio.Future[tuple[int, socket.socket] | None] = loop.create_future()

        def fork() -> None:
            if forked.cancelled():
                return  # nobody would hold the control socket
            try:
                forked.set_result(None if self._stop_wanted.is_set() else self._fork(shard))
            except Exception as error:  # whatever it is, the commits go on and somebody hears of it
                forked.set_exception(error)

        try:
            async with self._controller.quiesced():
                loop.call_soon(fork)
                return await forked
        except BaseException:
            if forked.done() and not forked.cancelled() and forked.exception() is None:
                # Cancelled right after the fork: a shard without its channel must not live.
                if (life := forked.result()) is not None:
                    life[1].close()
                    shard.kill()
            raise

    # The end.

    def _on_stop_signal(self, number: int) -> None:
        if self._stop_wanted.is_set():
            self._log.warning("stopping at once", signal=signal.Signals(number).name)
            self._exit_code = 1
            self._kill_wanted.set()
        else:
            self._log.info("stopping", signal=signal.Signals(number).name)
            self._stop_wanted.set()

    def _fail(self) -> None:
        self._exit_code = 1
        self._stop_wanted.set()

    async def _stop(self) -> None:
        """Let the shards finish what is in flight, then leave nothing behind."""
        for shard in self._shards:
            shard.listener.close()  # the shard closes its own copy: clients are refused from now
            shard.send({"type": "stop"})
        self._reap()
        timeout_s = self._config.shutdown_timeout_s
        if not await first_of(self._all_dead, self._kill_wanted, timeout_s=timeout_s):
            self._log.error("shards are killed: they did not stop in time", timeout_s=timeout_s)
        if not self._all_dead.is_set():
            for shard in self._shards:
                shard.kill()
            if not await first_of(self._all_dead, timeout_s=KILLED_S_MAX):
                self._leave()
        await self._tasks.cancel()
        await self._admin.close()
        await self._controller.close()
        try:
            (self._config.data_dir / STATUS_FILE).unlink(missing_ok=True)
        except OSError as error:
            self._log.warning("cannot remove broker.json", reason=str(error))
        self._log.info("stopped")

    def _leave(self) -> None:
        """End without the shards, at once and without a look at the disk: it does not answer them,
        and what waits for it in the kernel no signal ends."""
        pids = [shard.pid for shard in self._shards if shard.pid is not None]
        self._log.error(
            "shards that were killed do not end: the disk does not answer",
            pids=pids,
            data_dir=str(self._config.data_dir),
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    # What others see.

    def _snapshot(self) -> bytes:
        return self._controller.snapshot_frame()

    def _ready(self) -> bool:
        return all(shard.state == shard_link.READY for shard in self._shards)

    def _kafka_addresses(self) -> list[str]:
        return [listeners.address_of(listener) for listener in self._prepared.kafka]

    def _admin_address(self) -> str:
        return listeners.address_of(self._prepared.admin)

    def _info(self) -> BrokerInfo:
        return BrokerInfo(
            pid=os.getpid(),
            data_dir=self._config.data_dir,
            kafka=self._kafka_addresses(),
            cores=[shard.core for shard in self._shards],
            admin=self._admin_address(),
            shard_pids=[shard.pid for shard in self._shards if shard.pid is not None],
            disk=_disk_words(self._shards[0].info, self._config),
            caching_nodes=[
                node_id
                for node_id in self._config.node_ids
                if effective_config(self._config, self._state.broker_configs, node_id).write_caching
            ],
            caching_topics=sum(
                topic.configs.get("write.caching") == "true"
                for topic in self._state.topics.values()
            ),
        )

    def status(self) -> tuple[bool, Json]:
        """(ready, body) for GET /v1/status/ready."""
        if self._stop_wanted.is_set():
            return False, {"status": "stopping"}
        shards = [
            {
                "node_id": shard.node_id,
                "status": shard.state,
                "pid": shard.pid,
                "restarts": shard.restarts,
                "ended_by": shard.ended_by,
                "in_metadata": shard.node_id in self._state.nodes,
                "storage": shard.storage,
                **({"recovery": shard.recovery} if shard.recovery else {}),
                **shard.info,
            }
            for shard in self._shards
        ]
        where = {
            "kafka": self._kafka_addresses(),
            "admin": self._admin_address(),
            "pid": os.getpid(),
            "storage": max((s.storage for s in self._shards), key=shard_link.STORAGE_LEVELS.index),
            "shards": shards,
        }
        if self._ready():
            return True, {"status": "ready", **where}
        if self._announced:
            return False, {"status": "degraded", **where}  # some shard serves, some does not
        starting = any(shard.state == shard_link.STARTING for shard in self._shards)
        return False, {"status": "starting" if starting else "recovering", **where}

    async def group_history(self, group_id: str) -> Json | None:
        """What happened to a group, from the shard that coordinates it; None: no shard has it."""
        live = [shard for shard in self._shards if shard.state == shard_link.READY]
        answers = await asyncio.gather(
            *(shard.ask("group_history", group=group_id) for shard in live)
        )
        return next((answer for answer in answers if answer is not None), None)

    async def metrics(self) -> AsyncIterator[bytes]:
        """The body for GET /metrics, in pieces: all shards that answer in time."""
        live = [shard for shard in self._shards if shard.state == shard_link.READY]
        answers = await asyncio.gather(*(shard.fetch_metrics() for shard in live))
        parts = {
            shard.node_id: answer
            for shard, answer in zip(live, answers, strict=True)
            if answer is not None
        }
        rows: exposition.Rows = {
            "rpk_up": [[int(self._ready())]],
            "rpk_shards": [[len(self._shards)]],
            "rpk_shards_ready": [[len(live)]],
            "rpk_topics": [[len(self._state.topics)]],
            "rpk_metadata_revision": [[self._state.revision]],
            "rpk_uptime_seconds": [[time.monotonic() - self._started_s]],
            "rpk_metadata_commit_seconds": [[self._controller.commit_seconds.snapshot()]],
            "rpk_shard_up": [[str(s.node_id), int(s.node_id in parts)] for s in self._shards],
            "rpk_shard_restarts_total": [[str(s.node_id), s.restarts] for s in self._shards],
            "rpk_shard_hung_total": [[str(s.node_id), s.hung_count] for s in self._shards],
            "rpk_control_queue_messages": [[str(s.node_id), s.queued_count] for s in self._shards],
            "rpk_control_requests_total": [
                [op, str(s.node_id), n] for s in self._shards for op, n in s.requests.items()
            ],
        }
        pids = {str(shard.node_id): shard.pid for shard in self._shards if shard.pid is not None}
        for _ in exposition.process_rows({"": os.getpid(), **pids}, rows):
            await asyncio.sleep(0)
        return exposition.render(rows, parts, await gather_lags(parts, live))

    def _task_failed(self, error: BaseException) -> None:
        self._log.error("the supervisor failed", exc_info=error)
        self._fail()


_DISK_WORDS = {"liburing": "io_uring (liburing)", "ring": "io_uring (built in)"}


def _disk_words(info: Json, config: Config) -> str:
    backend = str(info.get("backend", config.io_backend))
    words = _DISK_WORDS.get(backend, backend)
    if "direct" in info:
        words += (
            ", Direct I/O" if info["direct"] else ", buffered: no Direct I/O on this file system"
        )
    return words


def _reply(request: Json, answer: Json) -> Json:
    return {"type": "reply", "id": request["id"], **answer}
