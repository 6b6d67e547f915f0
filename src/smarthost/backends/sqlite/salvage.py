# SPDX-License-Identifier: MIT
"""Makes a new database of what can still be read of a damaged one, puts it in its place, and says what was lost.

Runs in the child, while nothing else has the database open. Every row on every page that can be read is taken
(pages.py, shapes.py), what it says is judged by its checksum (flaws.py), and what is missing is named as far as
anything names it. An entry that is not whole is held, or if it can never be sent again, left out; each has a record.
The old files are kept as queue.db.damaged-STAMP. A crash leaves the old database, or the new one: `finish` goes on.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import apsw

from smarthost.backends.sqlite import database, flaws, shapes
from smarthost.backends.sqlite.kept import Unusable, sync_directory, sync_file
from smarthost.backends.sqlite.pages import Image, Promise
from smarthost.backends.sqlite.rescue import Rescue

NEW, WHOLE = ".new", ".salvaged"  # being made; made and durable, to be put in its place
TIMES_AN_HOUR = 3  # more often, it is not the queue that is damaged, but what it lies on


def is_ours(image: Image) -> bool:
    """Was this a queue? If its head does not say so, a message with its checksum does."""
    return image.application_id == database.APPLICATION_ID or any(
        isinstance(found, shapes.Message) and found.values[14] is not None and not flaws.of_message(found.values)
        for number in range(1, image.count + 1)
        for found in map(shapes.recognise, image.rows(number))
    )


def salvage(path: Path, why: str, promised: Promise, tell: Callable[[str], None]) -> str:
    """Put a new database in the place of a damaged one; gives what was saved and lost, for an operator.

    `promised`: pages.promise before SQLite opened it.
    Raises: Unusable: it is not ours, or there is no room, or it was salvaged again and again. OSError: the disk fails.
    """
    finish(path)
    _refuse_too_many(path)
    image = Image(path, promised)
    try:
        if not is_ours(image):
            raise Unusable(
                f"{path} is not a database: damaged, or not ours. Put a backup in its place, or move it away to start"
                " with an empty queue"
            )
        tell(f"the queue's database is damaged ({why}): a salvage is under way, which may take minutes")
        new = path.with_name(path.name + NEW)
        _sweep(new)
        try:
            report = _make(image, new, path.parent / "content")
        except apsw.FullError as error:
            _sweep(new)
            raise Unusable(f"{path} is damaged ({why}), and there is no room for a salvaged one: make room") from error
        except OSError:
            _sweep(new)
            raise
    finally:
        image.close()
    stamp = _keep_old(path)
    sync_file(new)
    new.rename(path.with_name(path.name + WHOLE))
    sync_directory(path.parent)
    finish(path)
    return f"the queue's database was damaged ({why}); {report}; the old files are kept as {stamp}"


def finish(path: Path) -> None:
    """Put a salvaged database in its place, if a crash left one that is whole. Raises: OSError."""
    whole = path.with_name(path.name + WHOLE)
    if not whole.exists():
        return
    for name in ("-wal", "-shm", "-journal"):  # of the old one: they would be taken for the new one's
        path.with_name(path.name + name).unlink(missing_ok=True)
    sync_directory(path.parent)
    whole.rename(path)
    sync_directory(path.parent)


def _make(image: Image, new: Path, content: Path) -> str:
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    db = apsw.Connection(str(new))
    try:
        db.pragma("page_size", database.PAGE_OCTETS)
        db.pragma("journal_mode", "off")  # a crash leaves what the next start makes anew
        db.pragma("synchronous", 0)  # synced when it is whole
        db.pragma("temp_store", 2)
        db.pragma("cache_size", -64_000)
        with db:
            db.execute((Path(__file__).parent / "schema.sql").read_text())
            db.pragma("application_id", database.APPLICATION_ID)
            db.pragma("user_version", database.compatible_with(database.SCHEMA_VERSION))
        rescue = Rescue(image, db, content, time.time())
        with db:
            rescue.gather()
            rescue.judge()
            report = rescue.report()
    finally:
        db.close()
    return report


def _keep_old(path: Path) -> Path:
    """Give the old files names of their own, beside those they have."""
    kept = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    while kept.exists():
        kept = kept.with_name(kept.name + "+")
    for name in ("", "-wal"):
        old = path.with_name(path.name + name)
        with suppress(FileNotFoundError):
            os.link(old, kept.with_name(kept.name + name))
    sync_directory(path.parent)
    return kept


def _sweep(new: Path) -> None:
    for name in ("", "-wal", "-shm", "-journal"):
        new.with_name(new.name + name).unlink(missing_ok=True)


def _refuse_too_many(path: Path) -> None:
    hour_ago = datetime.fromtimestamp(time.time() - 3600, UTC).strftime("%Y%m%dT%H%M%SZ")
    stamps = [each.name.partition(".damaged-")[2] for each in path.parent.glob(f"{path.name}.damaged-*")]
    recent = [stamp for stamp in stamps if stamp > hour_ago and not stamp.endswith("-wal")]
    if len(recent) >= TIMES_AN_HOUR:
        raise Unusable(
            f"{path} is damaged again, {len(recent)} times within an hour: look at the disk and the memory of this"
            f" machine; then remove or move away {path.name}.damaged-* for another salvage"
        )
