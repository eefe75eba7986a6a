"""The project's own rules, held by a test: layers, limits, banned calls, dead files.

The source tree is parsed with `ast` and never imported, so this runs before anything works. Each
rule is a function from parsed files to findings; `SAMPLES` feeds every rule a source that breaks
it, so a rule that has stopped biting fails here too. A rule that is wrong in one place gets that
place in its list of exceptions with the reason, not a weaker rule.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("kafka_protocol", "storage", "rpk_py")
PYTHON_TREES = (*PACKAGES, "tests", "bench", "compat", "k8s")
SKIPPED_DIRS = {".git", ".venv", "data", "build", "dist", "node_modules", "__pycache__"}

LINE_COLUMNS_MAX = 100
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600

# --- what a file may import ----------------------------------------------------------------------

PROTOCOL_FORBIDDEN = {"asyncio", "logging", "time", "random", "os", "socket", "threading"}
PROTOCOL_THIRD_PARTY = {"crc32c", "cramjam"}
STORAGE_THIRD_PARTY = {"liburing"}
STORAGE_FROM_PROTOCOL = {
    "kafka_protocol.checksum",
    "kafka_protocol.errors",
    "kafka_protocol.record_batch",
    "kafka_protocol.record_filter",
}
BROKER_THIRD_PARTY = {"click", "h11", "prometheus_client", "re2", "structlog", "tabulate", "uvloop"}

# One importer each: everything behind it can be replaced, faked or left out in one place.
ONLY_IMPORTER = {
    "liburing": "storage/uring.py",
    "prometheus_client": "rpk_py/exposition.py",
    "uvloop": "rpk_py/event_loop.py",
    "sqlite3": "rpk_py/metadata/sqlite_store.py",
    "h11": "rpk_py/admin.py",
    "re2": "rpk_py/groups/subscriptions.py",
}
ONLY_PROTOCOL_SUBCLASS = "rpk_py/connection.py"
PROTOCOL_BASES = {"BufferedProtocol", "Protocol", "DatagramProtocol", "SubprocessProtocol"}

# (files, modules they never import, why); a trailing slash means everything below.
NEVER_IMPORT: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        ("rpk_py/handlers/",),
        ("rpk_py.connection", "rpk_py.server", "rpk_py.shard", "rpk_py.supervisor"),
        "a handler turns a request into a response and knows nothing of sockets or processes",
    ),
    (
        (
            "rpk_py/partition.py",
            "rpk_py/producers.py",
            "rpk_py/fetch_waiters.py",
            "rpk_py/groups/",
            "rpk_py/transactions/",
        ),
        ("rpk_py.handlers", "rpk_py.connection", "rpk_py.config", "rpk_py.server", "rpk_py.shard"),
        "limits and dependencies come through the constructor",
    ),
    (
        ("rpk_py/metadata/",),
        ("rpk_py.handlers", "rpk_py.connection", "rpk_py.server", "rpk_py.shard", "storage"),
        "metadata is below the request path and beside the log",
    ),
    (("rpk_py/connection.py",), ("storage", "rpk_py.partition"), "bytes in, replies out"),
)
HANDLERS_FROM_STORAGE = {"storage.errors"}  # to map StorageError to an ErrorCode, nothing else

# State machines and plans: no await, no clock, no randomness; they take now_ms and rng.
PURE_FILES = (
    "storage/recovery.py",
    "storage/retention.py",
    "rpk_py/metadata/state.py",
    "rpk_py/metadata/placement.py",
    "rpk_py/groups/assignors.py",
    "rpk_py/groups/classic.py",
    "rpk_py/groups/classic_core.py",
    "rpk_py/groups/classic_members.py",
    "rpk_py/groups/classic_rebalance.py",
    "rpk_py/groups/consumer.py",
    "rpk_py/groups/consumer_members.py",
    "rpk_py/groups/offsets.py",
    "rpk_py/groups/subscriptions.py",
    "rpk_py/groups/timeline.py",
)
PURE_FORBIDDEN = {"asyncio", "time", "random", "secrets", "socket", "threading"}

# --- what a file may do --------------------------------------------------------------------------

PRINT_ALLOWED = ("rpk_py/cli/", "rpk_py/__main__.py", "tests/", "bench/", "compat/")
ENTRY_POINTS = {"rpk_py.__main__"}
VAGUE_NAMES = {"utils", "util", "helper", "helpers", "common", "misc", "manager"}
# flock has no timeout, so the lock is polled with a deadline, in a thread and never on the loop;
# and one test shows that nothing happens for a while.
SLEEP_ALLOWED = {"storage/disk.py", "tests/storage/test_disk.py"}
SLEEP_HINT = "wait for the event itself, or poll the condition in a loop with a deadline"


@dataclass(slots=True)
class Source:
    """One file: `path` is relative to the root with forward slashes; `tree` only for Python."""

    path: str
    text: str
    tree: ast.Module = field(default_factory=lambda: ast.Module(body=[], type_ignores=[]))

    @property
    def module(self) -> str:
        """`rpk_py/handlers/__init__.py` -> `rpk_py.handlers`."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        return self.path.split("/", 1)[0]


@dataclass(frozen=True, slots=True)
class Import:
    module: str  # as specific as the tree allows: `from a import b` is `a.b` where that is a file
    line: int


class Tree:
    """All files of one kind of check, and what each of them imports."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self.sources = list(sources)
        self.python = [s for s in self.sources if s.path.endswith(".py")]
        self.markdown = [s for s in self.sources if s.path.endswith(".md")]
        self.modules = {s.module for s in self.python}
        self.imports = {s.path: list(self._imports_of(s)) for s in self.python}

    def in_packages(self, *packages: str) -> Iterator[Source]:
        return (s for s in self.python if s.package in packages)

    def _imports_of(self, source: Source) -> Iterator[Import]:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, node.lineno)
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(source, node)
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    yield Import(inner if inner in self.modules else base, node.lineno)

    @staticmethod
    def _absolute(source: Source, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        parts = source.path.removesuffix(".py").split("/")[: -node.level]
        return ".".join([*parts, *([node.module] if node.module else [])])


def below(module: str, parent: str) -> bool:
    """Whether `module` is `parent` or lies inside it."""
    return module == parent or module.startswith(parent + ".")


def matches(path: str, patterns: Iterable[str]) -> bool:
    return any(path.startswith(p) if p.endswith("/") else path == p for p in patterns)


# --- rules: imports ------------------------------------------------------------------------------


def rule_protocol_imports_nothing_of_the_world(tree: Tree) -> Iterator[str]:
    for source in tree.in_packages("kafka_protocol"):
        for item in tree.imports[source.path]:
            top = item.module.split(".")[0]
            if top == "kafka_protocol" or top in PROTOCOL_THIRD_PARTY:
                continue
            if top in PROTOCOL_FORBIDDEN or top not in sys.stdlib_module_names:
                yield f"{source.path}:{item.line}: the codec is sans-io, it never imports {top}"


def rule_storage_imports_only_the_record_batch(tree: Tree) -> Iterator[str]:
    for source in tree.in_packages("storage"):
        for item in tree.imports[source.path]:
            top = item.module.split(".")[0]
            fine = top in {"storage", *STORAGE_THIRD_PARTY} or top in sys.stdlib_module_names
            if not fine and item.module not in STORAGE_FROM_PROTOCOL:
                yield f"{source.path}:{item.line}: storage never imports {item.module}"


def rule_broker_imports_known_packages(tree: Tree) -> Iterator[str]:
    known = {*PACKAGES, *BROKER_THIRD_PARTY}
    for source in tree.in_packages("rpk_py"):
        for item in tree.imports[source.path]:
            top = item.module.split(".")[0]
            if top not in known and top not in sys.stdlib_module_names:
                yield f"{source.path}:{item.line}: {top} is no dependency of the broker"


def rule_one_importer_each(tree: Tree) -> Iterator[str]:
    for source in tree.in_packages(*PACKAGES):
        for item in tree.imports[source.path]:
            owner = ONLY_IMPORTER.get(item.module.split(".")[0])
            if owner is not None and owner != source.path:
                yield f"{source.path}:{item.line}: {item.module} is imported only by {owner}"


def rule_one_asyncio_protocol(tree: Tree) -> Iterator[str]:
    for source in tree.in_packages(*PACKAGES):
        if source.path == ONLY_PROTOCOL_SUBCLASS:
            continue
        bare = {
            alias.asname or alias.name
            for node in ast.walk(source.tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("asyncio")
            for alias in node.names
        }
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ClassDef):
                continue
            for base in node.bases:
                dotted = ast.unparse(base)
                name = dotted.rsplit(".", 1)[-1]
                if name in PROTOCOL_BASES and (dotted.startswith("asyncio.") or dotted in bare):
                    where = ONLY_PROTOCOL_SUBCLASS
                    yield f"{source.path}:{node.lineno}: {dotted} is subclassed only in {where}"


def rule_layers_point_down(tree: Tree) -> Iterator[str]:
    for source in tree.in_packages("rpk_py"):
        for files, modules, why in NEVER_IMPORT:
            if not matches(source.path, files):
                continue
            for item in tree.imports[source.path]:
                if any(below(item.module, module) for module in modules):
                    yield f"{source.path}:{item.line}: must not import {item.module}: {why}"


def rule_handlers_stand_alone(tree: Tree) -> Iterator[str]:
    for source in tree.in_packages("rpk_py"):
        if not source.path.startswith("rpk_py/handlers/"):
            continue
        is_table = source.path == "rpk_py/handlers/__init__.py"
        for item in tree.imports[source.path]:
            if below(item.module, "rpk_py.handlers") and not is_table:
                yield f"{source.path}:{item.line}: a handler never imports {item.module}"
            if below(item.module, "storage") and item.module not in HANDLERS_FROM_STORAGE:
                yield f"{source.path}:{item.line}: handlers reach {item.module} by the partition"


def rule_nothing_imports_tests(tree: Tree) -> Iterator[str]:
    for source in tree.python:
        for item in tree.imports[source.path]:
            if source.package != "tests" and below(item.module, "tests"):
                yield f"{source.path}:{item.line}: nothing imports tests"


def rule_black_box_suites_stay_outside(tree: Tree) -> Iterator[str]:
    for source in tree.in_packages("compat", "k8s"):
        for item in tree.imports[source.path]:
            if item.module.split(".")[0] in PACKAGES:
                yield f"{source.path}:{item.line}: {source.package} speaks to us over TCP only"


def rule_state_machines_are_pure(tree: Tree) -> Iterator[str]:
    for source in tree.python:
        if source.path not in PURE_FILES:
            continue
        for item in tree.imports[source.path]:
            if item.module.split(".")[0] in PURE_FORBIDDEN:
                yield f"{source.path}:{item.line}: pure, so no {item.module}: take it as a value"
        for node in ast.walk(source.tree):
            if isinstance(node, ast.AsyncFunctionDef | ast.Await):
                yield f"{source.path}:{node.lineno}: pure, so it never awaits"


def rule_no_dead_modules(tree: Tree) -> Iterator[str]:
    used: set[str] = set(ENTRY_POINTS)
    for source in tree.python:
        if source.package == "tests":
            continue
        for item in tree.imports[source.path]:
            if item.module != source.module:
                used.add(item.module)
    for source in tree.in_packages(*PACKAGES):
        if source.module not in used and not source.path.endswith("/__init__.py"):
            yield f"{source.path}:1: dead module: nothing but tests imports it"


# --- rules: shape --------------------------------------------------------------------------------


def rule_lines_fit(tree: Tree) -> Iterator[str]:
    for source in tree.python:
        for number, line in enumerate(source.text.splitlines(), 1):
            columns = len(re.sub(r"  # (type: ignore|noqa|fmt:).*", "", line))  # as ruff counts
            if columns > LINE_COLUMNS_MAX:
                yield f"{source.path}:{number}: {columns} columns, at most {LINE_COLUMNS_MAX}"


def rule_functions_fit(tree: Tree) -> Iterator[str]:
    for source in tree.python:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    most = FUNCTION_LINES_MAX
                    yield f"{source.path}:{node.lineno}: {node.name} has {lines} lines, max {most}"


def rule_files_fit(tree: Tree) -> Iterator[str]:
    for source in tree.python:
        lines = len(source.text.splitlines())
        if lines > FILE_LINES_MAX:
            yield f"{source.path}:{lines}: {lines} lines, at most {FILE_LINES_MAX}: split by noun"


def rule_modules_have_docstrings(tree: Tree) -> Iterator[str]:
    for source in tree.python:
        if ast.get_docstring(source.tree) is None:
            yield f"{source.path}:1: say in a docstring what this is, where it runs, what holds"


def rule_names_say_something(tree: Tree) -> Iterator[str]:
    for source in tree.python:
        stem = source.module.rsplit(".", 1)[-1]
        if stem in VAGUE_NAMES:
            yield f"{source.path}:1: name it after its noun, '{stem}' says nothing"


def rule_one_title_a_document(tree: Tree) -> Iterator[str]:
    for source in tree.markdown:
        prose = re.sub(r"^(```|~~~).*?^\1", "", source.text, flags=re.MULTILINE | re.DOTALL)
        titles = re.findall(r"^# .+$", prose, flags=re.MULTILINE)
        if len(titles) != 1:
            yield f"{source.path}:1: {len(titles)} titles ('# '), a document has one"


def rule_links_lead_somewhere(tree: Tree) -> Iterator[str]:
    for source in tree.markdown:
        for target in re.findall(r"\]\(([^)#\s]+)", source.text):
            if "://" in target or target.startswith("mailto:"):
                continue
            if not (ROOT / source.path).parent.joinpath(target).exists():
                yield f"{source.path}:1: broken link to {target}"


def rule_the_file_map_is_true(tree: Tree) -> Iterator[str]:
    """docs/ARCHITECTURE.md names every module, and its map none that does not exist.

    In messages, handlers and cli there is one file an API or command, so no list of them.
    """
    pages = [s for s in tree.markdown if s.path == "docs/ARCHITECTURE.md"]
    named = set(re.findall(r"\w+\.py", "".join(page.text for page in pages)))
    names = {source.path.rpartition("/")[2] for source in tree.python}
    for source in tree.in_packages(*PACKAGES):
        folder, _, name = source.path.rpartition("/")
        one_each = folder.endswith(("/messages", "/handlers", "/cli"))
        if name not in named and name != "__init__.py" and not one_each:
            yield f"{source.path}:1: not in the file map of docs/ARCHITECTURE.md"
    for page in pages:
        for block in re.findall(r"^```$.*?^```$", page.text, flags=re.MULTILINE | re.DOTALL):
            for name in re.findall(r"\w+\.py", block):
                if name not in names:
                    yield f"{page.path}:1: the file map names {name}, which does not exist"


# --- rules: banned calls -------------------------------------------------------------------------


def calls_with_loop_depth(node: ast.AST, depth: int = 0) -> Iterator[tuple[ast.Call, int]]:
    """Every call below `node` with the number of loops around it within its own function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = 0
        else:
            inner = depth + isinstance(child, ast.For | ast.While | ast.AsyncFor)
        if isinstance(child, ast.Call):
            yield child, depth
        yield from calls_with_loop_depth(child, inner)


def rule_no_sleep(tree: Tree) -> Iterator[str]:
    """The code never sleeps a thread; a test sleeps only between two looks at a condition."""
    for source in tree.python:
        is_product = source.package in PACKAGES
        if source.path in SLEEP_ALLOWED:
            continue
        for call, loops in calls_with_loop_depth(source.tree):
            name = ast.unparse(call.func)
            yields_only = bool(call.args) and ast.unparse(call.args[0]) == "0"
            if name == "time.sleep" and (is_product or not loops):
                yield f"{source.path}:{call.lineno}: time.sleep: {SLEEP_HINT}"
            if name == "asyncio.sleep" and not (is_product or loops or yields_only):
                yield f"{source.path}:{call.lineno}: asyncio.sleep: {SLEEP_HINT}"
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                if any(alias.name == "sleep" for alias in node.names):
                    yield f"{source.path}:{node.lineno}: import time, so that a sleep is seen"


def rule_no_swallowed_exceptions(tree: Tree) -> Iterator[str]:
    for source in tree.python:
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = ast.unparse(node.type) if node.type else ""
            empty = all(isinstance(item, ast.Pass | ast.Continue) for item in node.body)
            if not caught:
                yield f"{source.path}:{node.lineno}: bare except: name what you expect"
            elif empty and caught in {"Exception", "BaseException"}:
                yield f"{source.path}:{node.lineno}: except {caught}: pass hides bugs: name it"


def rule_no_orphan_tasks(tree: Tree) -> Iterator[str]:
    for source in tree.python:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                owner, _, call = ast.unparse(node.value.func).rpartition(".")
                is_group = owner.endswith(("group", "tg"))
                if call in {"create_task", "ensure_future"} and not is_group:
                    yield f"{source.path}:{node.lineno}: a task needs an owner: use a TaskGroup"


def rule_no_print(tree: Tree) -> Iterator[str]:
    for source in tree.python:
        if matches(source.path, PRINT_ALLOWED):
            continue
        for call, _ in calls_with_loop_depth(source.tree):
            if ast.unparse(call.func) == "print":
                yield f"{source.path}:{call.lineno}: print: log it, or return it to the cli"


def rule_no_eval(tree: Tree) -> Iterator[str]:
    for source in tree.python:
        for call, _ in calls_with_loop_depth(source.tree):
            if isinstance(call.func, ast.Name) and call.func.id in {"eval", "exec"}:
                yield f"{source.path}:{call.lineno}: {call.func.id}: build a closure instead"


def rule_asserts_state_one_fact(tree: Tree) -> Iterator[str]:
    for source in tree.in_packages(*PACKAGES):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assert) and isinstance(node.test, ast.BoolOp):
                if isinstance(node.test.op, ast.And):
                    yield f"{source.path}:{node.lineno}: split the assert, so it says what broke"


# --- the rules against the tree, and against sources that break them -----------------------------

Rule = Callable[[Tree], Iterator[str]]
RULES: dict[str, Rule] = {
    name.removeprefix("rule_"): value
    for name, value in sorted(globals().items())
    if name.startswith("rule_")
}

DOC = '"""D."""\n'
LONG_FUNCTION = DOC + "def f() -> None:\n" + "    f()\n" * FUNCTION_LINES_MAX
SAMPLES: list[tuple[str, str, str]] = [
    ("protocol_imports_nothing_of_the_world", "kafka_protocol/wire.py", "import asyncio"),
    ("protocol_imports_nothing_of_the_world", "kafka_protocol/wire.py", "import os.path"),
    ("protocol_imports_nothing_of_the_world", "kafka_protocol/wire.py", "import storage.log"),
    ("protocol_imports_nothing_of_the_world", "kafka_protocol/wire.py", "from rpk_py import a"),
    ("protocol_imports_nothing_of_the_world", "kafka_protocol/wire.py", "import structlog"),
    ("storage_imports_only_the_record_batch", "storage/log.py", "import kafka_protocol.frame"),
    ("storage_imports_only_the_record_batch", "storage/log.py", "from rpk_py import config"),
    ("storage_imports_only_the_record_batch", "storage/log.py", "import structlog"),
    ("broker_imports_known_packages", "rpk_py/shard.py", "import numpy"),
    ("one_importer_each", "storage/log.py", "import liburing"),
    ("one_importer_each", "rpk_py/server.py", "def f():\n    import uvloop"),
    ("one_importer_each", "rpk_py/supervisor.py", "from h11 import Connection"),
    ("one_importer_each", "rpk_py/metadata/controller.py", "import sqlite3"),
    ("one_importer_each", "rpk_py/server.py", "import h11"),
    ("one_asyncio_protocol", "rpk_py/server.py", "class A(asyncio.Protocol): ..."),
    (
        "one_asyncio_protocol",
        "rpk_py/server.py",
        "from asyncio import BufferedProtocol as B\nclass A(B): ...\n"
        "from asyncio import BufferedProtocol\nclass C(BufferedProtocol): ...",
    ),
    ("layers_point_down", "rpk_py/handlers/fetch.py", "import rpk_py.connection"),
    ("layers_point_down", "rpk_py/partition.py", "from rpk_py.config import Config"),
    ("layers_point_down", "rpk_py/groups/state.py", "from rpk_py.handlers import fetch"),
    ("layers_point_down", "rpk_py/metadata/state.py", "import storage.log"),
    ("handlers_stand_alone", "rpk_py/handlers/fetch.py", "from rpk_py.handlers.produce import x"),
    ("handlers_stand_alone", "rpk_py/handlers/fetch.py", "from . import produce"),
    ("handlers_stand_alone", "rpk_py/handlers/fetch.py", "from storage.log import Log"),
    ("nothing_imports_tests", "bench/run.py", "from tests.storage import builder"),
    ("black_box_suites_stay_outside", "compat/kcat/check.py", "import kafka_protocol.frame"),
    ("state_machines_are_pure", "storage/recovery.py", "import time"),
    ("state_machines_are_pure", "rpk_py/groups/consumer.py", "async def f(): ..."),
    ("no_dead_modules", "storage/forgotten.py", "X = 1"),
    ("lines_fit", "storage/log.py", "# " + "x" * LINE_COLUMNS_MAX),
    ("functions_fit", "storage/log.py", LONG_FUNCTION),
    ("files_fit", "storage/log.py", "\n" * (FILE_LINES_MAX + 1)),
    ("modules_have_docstrings", "storage/log.py", "X = 1"),
    ("names_say_something", "storage/utils.py", DOC),
    ("one_title_a_document", "docs/A.md", "# One\n\n# Two\n"),
    ("one_title_a_document", "docs/A.md", "```\n# only a comment in code\n```\n"),
    ("links_lead_somewhere", "docs/A.md", "# A\n[b](no-such-file.md)\n"),
    ("the_file_map_is_true", "storage/forgotten.py", DOC),
    ("the_file_map_is_true", "docs/ARCHITECTURE.md", "# A\n```\nforgotten.py\n```\n"),
    ("no_sleep", "storage/log.py", "import time\nwhile True:\n    time.sleep(1)"),
    ("no_sleep", "tests/broker/test_a.py", "import time\ntime.sleep(1)"),
    ("no_sleep", "tests/broker/test_a.py", "async def f():\n    await asyncio.sleep(0.1)"),
    ("no_sleep", "tests/broker/test_a.py", "from time import sleep"),
    ("no_swallowed_exceptions", "storage/log.py", "try:\n    f()\nexcept:\n    raise"),
    ("no_swallowed_exceptions", "storage/log.py", "try:\n    f()\nexcept Exception:\n    pass"),
    ("no_orphan_tasks", "rpk_py/shard.py", "asyncio.create_task(f())"),
    ("no_orphan_tasks", "rpk_py/shard.py", "self.loop.create_task(f())"),
    ("no_print", "storage/log.py", "print(1)"),
    ("no_eval", "kafka_protocol/schema.py", "exec('x = 1')"),
    ("asserts_state_one_fact", "storage/log.py", "assert a and b"),
]

CLEAN = [
    ("kafka_protocol/record_batch.py", "import struct\nimport crc32c\n"),
    ("storage/uring.py", "import liburing\nfrom kafka_protocol import record_batch\n"),
    ("storage/errors.py", "class StorageError(Exception):\n    pass\n"),
    ("rpk_py/handlers/__init__.py", "from rpk_py.handlers import produce\n"),
    ("rpk_py/handlers/produce.py", "from storage.errors import StorageError\n"),
    ("rpk_py/connection.py", "import asyncio\nclass C(asyncio.BufferedProtocol):\n    pass\n"),
    ("rpk_py/__main__.py", "import storage.uring\nimport rpk_py.connection\nprint(1)\n"),
    (
        "docs/ARCHITECTURE.md",
        "# A\n`record_batch.py uring.py errors.py connection.py __main__.py`\n",
    ),
    ("tests/test_a.py", "import time\nwhile f():\n    time.sleep(0.01)\n"),
]


def parse(path: str, text: str) -> Source:
    return Source(path, text, ast.parse(text, path) if path.endswith(".py") else ast.Module([], []))


def source_files() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if SKIPPED_DIRS.isdisjoint(parts) and not any(p.endswith("_cache") for p in parts):
            if path.suffix == ".md" or (path.suffix == ".py" and parts[0] in PYTHON_TREES):
                yield path


@pytest.fixture(scope="module")
def project() -> Tree:
    return Tree(
        parse(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in source_files()
    )


@pytest.mark.parametrize("rule", RULES)
def test_the_tree_keeps_the_rule(project: Tree, rule: str) -> None:
    findings = list(RULES[rule](project))
    assert not findings, "\n" + "\n".join(findings)


@pytest.mark.parametrize(("rule", "path", "text"), SAMPLES)
def test_the_rule_bites(rule: str, path: str, text: str) -> None:
    assert list(RULES[rule](Tree([parse(path, text)])))


def test_every_rule_has_a_source_that_breaks_it() -> None:
    assert {rule for rule, _, _ in SAMPLES} == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_spares_clean_sources(rule: str) -> None:
    tree = Tree(parse(p, DOC + text if p.endswith(".py") else text) for p, text in CLEAN)
    if rule == "no_dead_modules":
        tree.imports["rpk_py/__main__.py"] += [
            Import(module, 1) for module in ("rpk_py.handlers", "storage.errors")
        ]
    assert list(RULES[rule](tree)) == []


def test_from_a_package_import_a_module_counts_as_that_module() -> None:
    text = "from rpk_py import connection\nfrom . import server\nfrom .. import shard\n"
    modules = [parse(f"rpk_py/{name}.py", DOC) for name in ("connection", "shard")]
    modules.append(parse("rpk_py/handlers/server.py", DOC))
    tree = Tree([parse("rpk_py/handlers/fetch.py", text), *modules])
    assert [item.module for item in tree.imports["rpk_py/handlers/fetch.py"]] == [
        "rpk_py.connection",
        "rpk_py.handlers.server",
        "rpk_py.shard",
    ]


def test_the_tree_is_not_empty(project: Tree) -> None:
    assert {source.package for source in project.python} >= {"tests"}
