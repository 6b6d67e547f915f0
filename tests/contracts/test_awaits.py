# SPDX-License-Identifier: MIT
"""No await on a peer lacks a deadline: every await that is not on a coroutine of ours is found and accounted for.

What stands under `asyncio.timeout` is bounded there. All else must be in BOUNDED with the bound that ends it; a new one
fails until somebody has thought about it, and an entry that nothing needs any more fails too. That the deadlines named
here do end each state is shown with peers that fall silent: test_silent_clients, test_silent_hosts, test_silent_others.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import smarthost

SOURCE = Path(smarthost.__file__).parent
APART = ("testing/", "compat/", "ops/demo/")  # fakes; Twisted has no awaits; a show of our own peers

_LOCAL = "no peer: "
BOUNDED = {
    # peers
    ("send/session.py", "Session.set_up", "wanted"): "Session._deadline",
    ("send/session.py", "Session.transact", "ended"): "Session._deadline",
    ("backends/dns/transport.py", "Transport.exchange", "waiting"): "DnsResolver._try",
    ("backends/dns/transport.py", "Transport._socket", "loop.create_datagram_endpoint"): "DnsResolver._try",
    ("backends/dns/transport.py", "_exchange_over_tcp", "asyncio.open_connection"): "DnsResolver._try",
    ("backends/dns/transport.py", "_exchange_over_tcp", "reader.readexactly"): "DnsResolver._try",
    ("backends/dns/resolver.py", "DnsResolver.ask", "under_way.wait"): "set by who asks, within the patience in all",
    ("explain.py", "Explainer._probe_all", "asyncio.gather"): "each probe has a session's deadlines",
    ("hosts.py", "Hosts._stops_of", "asyncio.gather"): "plans: each question within ports.Resolver's 30 s",
    ("route/plan.py", "Planner.plan", "under_way.wait"): "set by who plans, within the resolver's times",
    ("route/plan.py", "Planner._look_up_all", "asyncio.TaskGroup"): "each question within ports.Resolver's 30 s",
    (
        "route/plan.py",
        "Planner._look_up_all",
        "is_enough.wait",
    ): "set when the questions are answered or their time is up",
    ("route/plan.py", "_ask_all", "asyncio.TaskGroup"): "each question within ports.Resolver's 30 s",
    ("ops/control.py", "ControlServer._find_standstill", "asyncio.wait"): "STANDSTILL_S",
    ("ops/control.py", "ControlServer._explain", "asyncio.wait"): "its own timeout, EXPLAIN_S in all",
    ("ops/control.py", "ControlServer._explain", "asyncio.gather"): "cancelled before",
    ("ops/control.py", "ControlServer._drain", "asyncio.wait"): "WORKING_S at a time; sessions have their deadlines",
    ("ops/control.py", "ControlServer._drain", "asyncio.gather"): "cancelled before",
    ("ops/doctor/egress.py", "_addresses", "asyncio.TaskGroup"): "the check's time, in examination._run",
    ("ops/doctor/egress.py", "_try_family", "asyncio.TaskGroup"): "the check's time, in examination._run",
    ("ops/doctor/examination.py", "examine", "each"): "each check has its time, in _run",
    ("ops/doctor/findings.py", "side_by_side", "asyncio.TaskGroup"): "the check's time, in examination._run",
    ("ops/doctor/world.py", "aside", "done"): "the check's time, in examination._run; the daemon's, in find_daemon",
    ("ops/control.py", "ControlServer._back_up", "asyncio.wait"): "WORKING_S at a time; the store's child",
    ("ops/control.py", "ControlServer._back_up", "asyncio.gather"): "cancelled before",
    ("ops/control.py", "ControlServer._check", "found"): "the store, page by page; what is said has ANSWER_S",
    ("ops/control.py", "ControlServer._check", "contextlib.aclosing"): "the store",
    (
        "drain.py",
        "_Move._go_through",
        "asyncio.wait",
    ): "workers, whose sessions have their deadlines; STOP_S at the end",
    ("drain.py", "_Move._next", "self._reading"): "the store",
    ("commits.py", "Commits.until_answered", "asyncio.wait"): "the store's commits",
    ("drain.py", "_Move.find_out", "self._terms.plan_to"): "a plan: each question within ports.Resolver's 30 s",
    ("ops/control.py", "ControlServer._carry_out", "answer_about_queue"): "the store; what is said has ANSWER_S",
    ("ops/queue_requests.py", "answer_about_queue", "_find"): "the store",
    ("ops/queue_requests.py", "answer_about_queue", "_change"): "the store",
    ("operations.py", "Operations.domains_of_lane", "self._terms.plan_of"): "a plan: ports.Resolver's 30 s a question",
    ("reloading.py", "Reloading.reload", "self._one_at_a_time"): "another reload: FILES_S, and the store",
    ("ops/config_file.py", "ConfigFile._follow", "asked.wait"): _LOCAL + "a signal; cancelled at the end",
    ("ops/config_file.py", "ConfigFile.following", "asyncio.gather"): _LOCAL + "cancelled before",
    ("ops/config_file.py", "ConfigFile.compare", "aclosing"): "the store",
    ("ops/config_file.py", "ConfigFile.compare", "counted"): "the store, page by page",
    ("ops/control.py", "ControlServer._compare", "self._submissions"): "others' CONTENT_S, and the store",
    ("ops/control.py", "ControlServer._compare", "contextlib.aclosing"): "the store",
    ("ops/control.py", "ControlServer._compare", "answers"): "the store, page by page; what is said has ANSWER_S",
    ("ops/control.py", "ControlServer._reload", "asyncio.wait"): "WORKING_S at a time; files have FILES_S",
    ("ops/control.py", "ControlServer._reload", "asyncio.gather"): "files have FILES_S; the rest is the store",
    ("ops/outbox/webhooks.py", "Webhook._post", "self._client.stream"): "Webhook.deliver",
    ("ops/outbox/webhooks.py", "Webhook._post", "answer.aiter_raw"): "Webhook.deliver",
    # ourselves: what we end by cancelling it, and bells that ring when there is work
    ("ops/http/server.py", "HttpServer.listen", "loop.create_server"): _LOCAL + "bind",
    ("ops/http/server.py", "HttpServer.close", "asyncio.wait"): _LOCAL + "its own timeout, CLOSING_S",
    ("ops/http/server.py", "HttpServer.close", "asyncio.gather"): _LOCAL + "cancelled before",
    ("ops/http/service.py", "open_http", "asyncio.gather"): _LOCAL + "cancelled before",
    ("ops/http/service.py", "make_app.app", "router"): "each request has its deadline in edge and site",
    ("ops/http/service.py", "make_app.app.send_safely", "send"): "server._Protocol: STUCK_S, then it is cut",
    ("ops/http/page/site.py", "Site._looking.look", "view"): "Site._edge: PAGE_S",
    ("ops/http/page/site.py", "Site._forming.take_form", "view"): "Site._edge: PAGE_S",
    ("ops/http/remembered.py", "Remembered.ask", "make"): "the request's own deadline",
    ("ops/http/remembered.py", "Remembered.ask", "self._locks.setdefault"): "the request's own deadline",
    ("ops/http/keys.py", "KeptKeys._file_named", "self._is_known"): _LOCAL + "the store",
    ("ops/http/keys.py", "KeptKeys._file_named", "self._notes().save_notes"): _LOCAL + "the store",
    ("ops/http/keys.py", "KeptKeys._file_named.keep", "self._notes().save_notes"): _LOCAL + "the store",
    ("ops/http/keys.py", "KeptKeys.sweep", "notes.save_notes"): _LOCAL + "the store",
    ("backends/tcp.py", "TcpListener.listen", "asyncio.get_running_loop().create_server"): _LOCAL + "bind",
    ("ops/control.py", "ControlServer.start", "asyncio.start_unix_server"): _LOCAL + "bind",
    ("ops/control.py", "ControlServer.close", "asyncio.gather"): _LOCAL + "cancelled before",
    ("ops/control.py", "ControlServer._take", "self._submissions"): "others' CONTENT_S, and the store",
    ("backends/dns/resolver.py", "DnsResolver._ask_servers", "self._places"): "under the patience in all",
    ("relay.py", "Journey.stop", "asyncio.gather"): _LOCAL + "given their grace, then cancelled",
    ("send/opening.py", "Opener.close", "asyncio.gather"): _LOCAL + "cancelled before",
    ("blocking.py", "_cancel_others", "asyncio.gather"): _LOCAL + "cancelled before",
    ("hosts.py", "Hosts._release", "self._stops_of"): "plans, as above",
    ("hosts.py", "Hosts._waiting", "self._stops_of"): "plans, as above",
    ("hosts.py", "Hosts.hasten", "self._stops_of"): "plans, as above",
    ("accept/inject.py", "Injection._file", "durable"): _LOCAL + "the store's commit",
    ("backends/sqlite/commits.py", "Commits.open", "self._opened"): _LOCAL + "the store's child",
    ("backends/sqlite/commits.py", "Commits._wait", "future"): _LOCAL + "the store's child",
    ("backends/sqlite/store.py", "SqliteStore.release", "portion.future"): _LOCAL + "the store's child",
    ("backends/sqlite/store.py", "SqliteStore.change", "self.settle"): _LOCAL + "the store's child",
    ("backends/sqlite/keeper.py", "Keeper.ask", "self._send"): _LOCAL + "the store's child",
    ("queue/memory.py", "MemoryStore.change", "self.settle"): _LOCAL + "the store",
    ("queue/memory.py", "MemoryStore.release", "self._enqueue"): _LOCAL + "the store",
    ("hosts.py", "Hosts._save_taken", "self._store.save_notes"): _LOCAL + "the store",
    ("reports.py", "Reports._file", "terms.store.file_report"): _LOCAL + "the store",
    ("send/attempt.py", "Sender.attempt", "self.terms.read_content"): _LOCAL + "the store",
    ("relay.py", "Journey._for_ever", "loop"): _LOCAL + "our loops, which never end",
    ("ops/control.py", "ControlServer._carry_out", "self._door.hosts"): _LOCAL + "our table",
    ("queue/feed.py", "Feed.refill", "asyncio.shield"): _LOCAL + "the store",
    ("queue/feed.py", "Feed.run", "self._bell.wait"): _LOCAL + "a bell",
    ("hosts.py", "Hosts.save_changes", "self._change_bell.wait"): _LOCAL + "a bell",
    ("hosts.py", "Hosts.release_for_ever", "self._works_bell.wait"): _LOCAL + "a bell",
    ("commits.py", "Commits.until_settled", "self._bell.wait"): _LOCAL + "a bell",
    ("reports.py", "Reports.file_for_ever", "self._bell.wait"): _LOCAL + "a bell",
    ("ops/daemon.py", "_serve_operators", "stop.wait"): _LOCAL + "until we are told to stop",
    ("ops/daemon.py", "_start", "asyncio.wait"): _LOCAL + "the start, or until we are told to stop",
    ("ops/daemon.py", "_start", "starting"): _LOCAL + "it has ended",
    ("ops/daemon.py", "_start", "asyncio.gather"): _LOCAL + "cancelled before",
    ("ops/readiness.py", "_beside", "asyncio.gather"): _LOCAL + "cancelled before",
    ("ops/daemon.py", "_serve_operators", "beside.enter_async_context"): _LOCAL + "parts of ours that start",
    ("ops/maildrop.py", "PickUp.__aenter__", "asyncio.to_thread"): _LOCAL + "a thread at our own directory",
    ("ops/maildrop.py", "PickUp._look", "asyncio.to_thread"): _LOCAL + "a thread at our own directory",
    ("ops/maildrop.py", "PickUp._remove", "asyncio.to_thread"): _LOCAL + "a thread at our own directory",
    ("ops/maildrop.py", "PickUp._set_aside", "asyncio.to_thread"): _LOCAL + "a thread at our own directory",
    ("ops/maildrop.py", "PickUp._take", "asyncio.to_thread"): _LOCAL + "a thread at our own directory",
    ("ops/maildrop.py", "PickUp._marking.drawn", "asyncio.to_thread"): _LOCAL + "a thread at our own directory",
    ("ops/maildrop.py", "PickUp._look", "asyncio.gather"): _LOCAL + "the store's commit, for a batch",
    ("ops/maildrop.py", "PickUp._take", "self._is_known"): _LOCAL + "the store",
    ("ops/maildrop.py", "PickUp._file", "self._submit"): _LOCAL + "the store's commit",
    ("ops/maildrop.py", "PickUp._report", "self._submit"): _LOCAL + "the store's commit",
    ("ops/maildrop.py", "PickUp.__aexit__", "asyncio.wait"): "its own timeout",
    ("ops/maildrop.py", "PickUp.__aexit__", "asyncio.gather"): _LOCAL + "cancelled before",
    ("auditor.py", "Auditor.check", "self._walk"): _LOCAL + "the store, page by page",
    ("auditor.py", "Auditor.walk_store", "self._walk"): _LOCAL + "the store, page by page",
    ("suspensions.py", "Suspensions._save", "self._terms.store.save_notes"): _LOCAL + "the store",
    ("pausing.py", "Pausing._look", "terms.load_further"): _LOCAL + "the store",
    ("pausing.py", "Pausing._begin", "terms.store.save_notes"): _LOCAL + "the store",
    ("pausing.py", "Pausing.resume", "terms.store.save_notes"): _LOCAL + "the store",
    ("relay.py", "Journey._going_on_again", "self._going_on.wait"): _LOCAL + "until an operator ends the pause",
    ("reports.py", "Reports.file_for_ever", "terms.until_wanted"): _LOCAL + "until an operator ends the pause",
    ("ops/metrics.py", "Metrics.gathering", "asyncio.gather"): _LOCAL + "cancelled before",
    ("ops/outbox/carrier.py", "Carrier._save", "self._store().save_notes"): _LOCAL
    + "the store; RETRY_STORE_S at the end",
    ("ops/outbox/opening.py", "Outboxes._end.ended", "asyncio.gather"): _LOCAL + "cancelled before",
    ("ops/outbox/opening.py", "Outboxes._run", "asyncio.wait"): _LOCAL + "an outbox that ends, within RETRY_STORE_S",
    ("ops/outbox/opening.py", "Outboxes.delivering", "asyncio.gather"): _LOCAL + "outboxes that end, as above",
}

Found = tuple[str, str, str]


def coroutines(trees: dict[str, ast.Module]) -> frozenset[str]:
    """Give the names of all coroutines of ours, and of ports: an await on one is accounted for within it."""
    nodes = (node for tree in trees.values() for node in ast.walk(tree))
    return frozenset(node.name for node in nodes if isinstance(node, ast.AsyncFunctionDef)) - {"wait"}


def read_sources() -> dict[str, ast.Module]:
    files = {str(path.relative_to(SOURCE)): path for path in sorted(SOURCE.rglob("*.py"))}
    return {name: ast.parse(path.read_text()) for name, path in files.items() if not name.startswith(APART)}


def find_unbounded(trees: dict[str, ast.Module]) -> set[Found]:
    """Find awaits on what is no coroutine of ours and not under asyncio.timeout: file, function, what is awaited."""
    ours = coroutines(trees)
    return {(name, *found) for name, tree in trees.items() for found in _find(tree, (), False, ours)}


def _find(node: ast.AST, within: tuple[str, ...], is_timed: bool, ours: frozenset[str]) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from _find(child, (*within, child.name), False, ours)
            continue
        awaited: list[ast.expr] = []
        is_bounded = is_timed
        if isinstance(child, ast.Await):
            awaited = [child.value]
        elif isinstance(child, ast.AsyncFor):
            awaited = [child.iter]
        elif isinstance(child, ast.AsyncWith):
            managers = [item.context_expr for item in child.items]
            is_bounded = is_timed or any(_is_timeout(each) for each in managers)
            awaited = [each for each in managers if not _is_timeout(each)]
        for each in awaited:
            what = ast.unparse(each.func if isinstance(each, ast.Call) else each)
            is_iterated = isinstance(child, ast.AsyncFor)
            if not is_timed and (is_iterated or not isinstance(each, ast.Call) or what.rpartition(".")[2] not in ours):
                yield ".".join(within), what
        yield from _find(child, within, is_bounded, ours)


def _is_timeout(manager: ast.expr) -> bool:
    return isinstance(manager, ast.Call) and ast.unparse(manager.func) in ("asyncio.timeout", "asyncio.timeout_at")


def test_every_await_on_a_peer_has_a_deadline() -> None:
    """All awaits of the program are under a timeout, on a coroutine of ours, or in the table with what bounds them."""
    found = find_unbounded(read_sources())

    assert set() == found - set(BOUNDED), "an await that nobody has accounted for"
    assert set() == set(BOUNDED) - found, "an entry that nothing needs"


def test_an_await_without_a_deadline_is_found() -> None:
    """The check can fail: a future, a reader, a manager and an iteration are found, what is under a timeout is not."""
    source = """
async def ours(): ...
async def f(reader, future, lock, stream):
    await ours()
    async with asyncio.timeout(1):
        await reader.readline()
    await reader.readexactly(2)
    await future
    async with lock:
        pass
    async for each in stream:
        pass
    async def g():
        await future.result()
"""

    found = find_unbounded({"x.py": ast.parse(source)})

    assert {what for _, _, what in found} == {"reader.readexactly", "future", "lock", "stream", "future.result"}


# The functions of the table above that bound what others await.
BOUNDING = (
    ("backends/dns/resolver.py", "_try"),
    ("backends/dns/resolver.py", "_ask_servers"),
    ("backends/dns/names.py", "ask"),
    ("backends/tcp.py", "dial"),
    ("ops/control.py", "_answer"),
    ("ops/control.py", "_take"),
    ("ops/control.py", "_say"),
    ("ops/outbox/webhooks.py", "deliver"),
    ("ops/doctor/examination.py", "_run"),
    ("ops/doctor/running.py", "find_daemon"),
)


def test_what_bounds_others_has_a_timeout() -> None:
    """Where an await is bounded by who calls it, the caller does bound it."""
    trees = read_sources()

    for name, function in BOUNDING:
        functions = [node for node in ast.walk(trees[name]) if isinstance(node, ast.AsyncFunctionDef)]
        text = "".join(ast.unparse(node) for node in functions if node.name == function)
        assert "asyncio.timeout(" in text, f"{name}: {function}"


def find_careless_cancels(tree: ast.Module) -> list[str]:
    """Find functions that cancel a session's deadline but do not end the session."""
    careless = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            text = ast.unparse(function)
            if "_deadline.cancel()" in text and not ("_is_over = True" in text or "_is_lost = True" in text):
                careless.append(function.name)
    return careless


def test_a_sessions_deadline_runs_as_long_as_the_session_lives() -> None:
    """Both kinds of session begin with a running deadline, and cancel it only where they are over."""
    trees = read_sources()

    for name in ("accept/session.py", "send/session.py"):
        text = ast.unparse(trees[name])
        assert 1 == text.count("self._deadline = "), "one deadline, made when the session is"
        assert "_deadline.cancel()" in text
        assert [] == find_careless_cancels(trees[name])
    others = [
        name
        for name, tree in trees.items()
        if name.startswith(("accept/", "send/")) and "_deadline.cancel()" in ast.unparse(tree)
    ]
    assert ["accept/session.py", "send/session.py"] == others
    assert ["f"] == find_careless_cancels(ast.parse("def f(self):\n    self._deadline.cancel()"))
