# SPDX-License-Identifier: MIT
"""What a bad disk, bad memory or a bad hand does to the files of a stopped queue. Seeded: each damage can be repeated.

Knows the names of the files and SQLite's page size, nothing else. Each mutation changes files in place and says in one
line what it did, or gives "" if there was nothing for it to change.
"""

import random
from collections.abc import Callable
from pathlib import Path

PAGE = 4096
_FRAME = PAGE + 24
_HEAD = 100  # octets of a database that say what it is
OCTETS = 16

Mutation = Callable[[Path, random.Random], str]


def flip_octets(state: Path, chance: random.Random) -> str:
    """Change some octets of the database anywhere."""
    return _flip(state / "queue.db", chance, 0)


def flip_octets_on_a_page(state: Path, chance: random.Random) -> str:
    """Change some octets of one page, where its structure is as likely as its rows."""
    path = state / "queue.db"
    octets = bytearray(path.read_bytes())
    page = chance.randrange(max(1, len(octets) // PAGE))
    places = [page * PAGE + chance.randrange(min(PAGE, len(octets))) for _ in range(chance.randint(1, OCTETS))]
    return _change(path, octets, places, chance)


def flip_octets_of_log(state: Path, chance: random.Random) -> str:
    """Change some octets of the write-ahead log: a torn one."""
    return _flip(state / "queue.db-wal", chance, 0)


def flip_head(state: Path, chance: random.Random) -> str:
    """Change an octet of what says what the database is."""
    path = state / "queue.db"
    octets = bytearray(path.read_bytes())
    return _change(path, octets, [chance.randrange(min(_HEAD, len(octets)))], chance)


def _flip(path: Path, chance: random.Random, start: int) -> str:
    octets = bytearray(path.read_bytes()) if path.exists() else bytearray()
    if len(octets) <= start:
        return ""
    return _change(
        path, octets, [chance.randrange(start, len(octets)) for _ in range(chance.randint(1, OCTETS))], chance
    )


def _change(path: Path, octets: bytearray, places: list[int], chance: random.Random) -> str:
    for place in places:
        octets[place] ^= chance.randint(1, 255)
    path.write_bytes(octets)
    return f"{path.name}: octets changed at {', '.join(map(str, sorted(places)))}"


def zero_page(state: Path, chance: random.Random) -> str:
    """Lose one page of the database."""
    path = state / "queue.db"
    octets = bytearray(path.read_bytes())
    page = chance.randrange(max(1, len(octets) // PAGE))
    octets[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(octets)
    return f"queue.db: page {page + 1} zeroed"


def zero_page_of_log(state: Path, chance: random.Random) -> str:
    """Lose one page of the write-ahead log."""
    path = state / "queue.db-wal"
    octets = bytearray(path.read_bytes()) if path.exists() else bytearray()
    if len(octets) < PAGE:
        return ""
    start = chance.randrange(max(1, len(octets) // PAGE)) * PAGE
    octets[start : start + PAGE] = bytes(PAGE)
    path.write_bytes(octets)
    return f"queue.db-wal: {PAGE} octets zeroed at {start}"


def cut_database(state: Path, chance: random.Random) -> str:
    """Lose the tail of the database."""
    return _cut(state / "queue.db", chance)


def cut_log(state: Path, chance: random.Random) -> str:
    """Lose the tail of the write-ahead log."""
    return _cut(state / "queue.db-wal", chance)


def _cut(path: Path, chance: random.Random) -> str:
    octets = path.stat().st_size if path.exists() else 0
    if not octets:
        return ""
    rest = chance.randrange(octets // 2, octets)
    with path.open("r+b") as file:
        file.truncate(rest)
    return f"{path.name}: cut at {rest} of {octets}"


def swap_pages(state: Path, chance: random.Random) -> str:
    """Let two pages of the database change places."""
    path = state / "queue.db"
    octets = bytearray(path.read_bytes())
    if len(octets) < 2 * PAGE:
        return ""
    one, two = chance.sample(range(len(octets) // PAGE), 2)
    first, second = slice(one * PAGE, (one + 1) * PAGE), slice(two * PAGE, (two + 1) * PAGE)
    octets[first], octets[second] = octets[second], octets[first]
    path.write_bytes(octets)
    return f"queue.db: pages {one + 1} and {two + 1} swapped"


def append_garbage(state: Path, chance: random.Random) -> str:
    """Add what nobody wrote to one of the files."""
    files = [path for path in (state / "queue.db", state / "queue.db-wal", *_contents(state)) if path.exists()]
    path = chance.choice(files)
    with path.open("ab") as file:
        file.write(chance.randbytes(chance.randint(1, 3 * PAGE)))
    return f"{path.name}: garbage appended"


def delete_content(state: Path, chance: random.Random) -> str:
    """Lose a content file."""
    files = _contents(state)
    if not files:
        return ""
    path = chance.choice(files)
    path.unlink()
    return f"content/{path.name} deleted"


def cut_content(state: Path, chance: random.Random) -> str:
    """Lose the tail of a content file."""
    files = _contents(state)
    return _cut(chance.choice(files), chance) if files else ""


def flip_octets_of_content(state: Path, chance: random.Random) -> str:
    """Change some octets of a content file."""
    files = _contents(state)
    return _flip(chance.choice(files), chance, 0) if files else ""


def _contents(state: Path) -> list[Path]:
    return sorted(path for path in (state / "content").iterdir() if path.stat().st_size)


MUTATIONS: tuple[Mutation, ...] = (
    flip_octets,
    flip_octets_on_a_page,
    flip_octets_on_a_page,
    flip_head,
    zero_page,
    zero_page,
    cut_database,
    swap_pages,
    flip_octets_of_log,
    zero_page_of_log,
    cut_log,
    append_garbage,
    delete_content,
    cut_content,
    flip_octets_of_content,
)


def damage(state: Path, seed: int) -> list[str]:
    """Do one to three things to the files of a state directory, and say what."""
    chance = random.Random(seed)
    return [each for _ in range(chance.choice((1, 1, 2, 3))) if (each := chance.choice(MUTATIONS)(state, chance))]
