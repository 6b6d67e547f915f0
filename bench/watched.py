# SPDX-License-Identifier: MIT
"""`python -m bench.watched`: smarthost alone beside smarthost with one webhook, the HTTP door, and scraped metrics.

Interleaved runs of the same load, as `make bench` has it; the median of the rounds' ratios is what being watched costs.
The receiver of the webhook and the scraper are processes of their own on the same machine: they take part of it, too.
"""

import base64
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

from bench.certificate import make_certificate
from bench.children import Child, Scratch
from bench.ending import measure_in_scratch
from bench.measure import Bench
from bench.network import free_port
from bench.options import Options, read_options
from bench.report import show_run
from bench.smarthost import Smarthost, smarthost_starter
from bench.system import StartSystem, System

LEAST_SHARE = 0.95
SCRAPE_S = 5.0
_CONFIG = """
[[listener]]
listen = ["127.0.0.1:0"]
mode = "relay"

[http]
listen = ["127.0.0.1:{http}"]

[[webhook]]
url = "http://127.0.0.1:{hook}/"
secret_file = "{secret}"
"""


class _Receiver(BaseHTTPRequestHandler):
    """Takes every batch."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def _start_watched(program: Path, scratch: Scratch, home: Path, sink_port: int) -> System:
    http, hook = free_port(), free_port()
    secret = home / "secret"
    secret.touch(mode=0o600)
    secret.write_text("whsec_" + base64.b64encode(b"s" * 32).decode() + "\n")
    config = home / "smarthost.toml"
    config.write_text(_CONFIG.format(http=http, hook=hook, secret=secret))
    words = [sys.executable, "-m", "bench.watched", "--receive", str(hook), "--scrape", str(http)]
    return _Watched(Smarthost(scratch, home, sink_port, program, (), config), scratch.start("watcher", words))


class _Watched:
    """smarthost, and who watches it."""

    name = "watched"

    def __init__(self, inner: Smarthost, watcher: Child) -> None:
        self._inner = inner
        self._watcher = watcher
        self.port = inner.port
        self.root_pid = inner.root_pid

    def left_over(self) -> int | None:
        return self._inner.left_over()

    def stop(self) -> None:
        self._inner.stop()
        self._watcher.stop(10)


def _watch(hook: int, http: int) -> None:
    """Receive batches and scrape metrics, until killed."""

    def scrape() -> None:
        while True:
            time.sleep(SCRAPE_S)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{http}/metrics", timeout=5).read()
            except OSError:
                continue

    threading.Thread(target=scrape, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", hook), _Receiver).serve_forever()


def _measure(options: Options, scratch: Scratch) -> int:
    certificate = make_certificate(scratch.path)
    program = options.smarthost.absolute()
    starters: dict[str, StartSystem] = {
        "smarthost": smarthost_starter(options.smarthost, ()),
        "watched": partial(_start_watched, program),
    }
    is_good = True
    for mode in options.modes:
        rates: dict[str, list[float]] = {name: [] for name in starters}
        for round_ in range(1, options.rounds + 1):
            for name, start in starters.items():
                run = Bench(scratch, options, mode, certificate=certificate).run(name, start, round_)
                print(show_run(run), flush=True)
                is_good = is_good and not run.failed
                rates[name].append(run.end_to_end_rate or 0.0)
        pairs = zip(rates["watched"], rates["smarthost"], strict=True)
        share = median([watched / max(1e-9, alone) for watched, alone in pairs])
        is_good = is_good and (share >= LEAST_SHARE or not options.gate)
        print(
            f"{mode}: watched {share:.3f} of alone (median of {options.rounds} rounds; {LEAST_SHARE} is demanded)",
            flush=True,
        )
    return 0 if is_good else 1


def main(argv: Sequence[str]) -> int:
    """Run, with the options of `python -m bench`."""
    if argv[:1] == ["--receive"]:
        _watch(int(argv[1]), int(argv[3]))
        return 0
    options = read_options([*argv, *([] if "--mode" in argv else ["--mode", "fresh", "--mode", "kept"])])
    return measure_in_scratch(options.scratch, partial(_measure, options))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
