# SPDX-License-Identifier: MIT
"""Envelope files (`-H`): a pickle of [sender, recipient], read without trusting whoever wrote it.

Admits plain str, bytes, int, list and tuple, whatever protocol (0 to 5) and Python wrote them. Every opcode is vetted
before anything is loaded, and every value afterwards: nothing is ever imported, called or built, and no file, however
made, costs more than its own size times a constant. The spool reads and writes with it. Opens no file and leaves none.
"""

import io
import pickle
import pickletools
from typing import Any, BinaryIO, Never

ENVELOPE_OCTETS = 65_536  # two addresses take hundreds; it also bounds what the opcodes of a hostile file can build
_DEPTH = 16  # of lists in lists: comparing or printing one recurses
_NUMBER_BITS = 1024  # Python refuses to print what has more than 4,300 digits
_PROTOCOL = 2  # the last that Python 2 reads, where the original still relays

# What pickles of the admitted types are made of. Without: globals and what calls or builds (REDUCE, BUILD, INST, OBJ,
# NEWOBJ, EXT, PERSID), other types (NONE, NEWTRUE, FLOAT, DICT, SETs, BYTEARRAY8, buffers), and what no pickler writes
# for these (DUP; POP and POP_MARK are for tuples that contain themselves).
_ADMITTED = frozenset({
    "PROTO", "FRAME", "STOP", "MARK",
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET",
})  # fmt: skip
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes if opcode.name in _ADMITTED}
_MEMO_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
# What unpickling octets can raise: the list is Hypothesis's.
_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError,
    OverflowError, RecursionError, MemoryError,
)  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """The second lock: the vetted opcodes ask neither of these."""

    def find_class(self, module: str, name: str) -> Never:
        raise pickle.UnpicklingError(f"it asks for {module[:60]!r}.{name[:60]!r}")

    def persistent_load(self, pid: object) -> Never:
        raise pickle.UnpicklingError("it asks for an object kept elsewhere")


def read_envelope(file: BinaryIO, name: str) -> Any:
    """Give what an envelope file holds: str, bytes and int, in lists and tuples that are each met once.

    A Python 2 string comes as str, what is not UTF-8 in it as surrogate escapes. What follows the pickle is not read,
    as pickle.load does not; it counts for ENVELOPE_OCTETS all the same. Raises: UnpicklingError, which names `name`
    and the reason, whatever is wrong with the octets; OSError if they cannot be read.
    """
    octets = file.read(ENVELOPE_OCTETS + 1)
    try:
        if len(octets) > ENVELOPE_OCTETS:
            raise pickle.UnpicklingError(f"more than {ENVELOPE_OCTETS} octets")
        _vet_opcodes(octets)
        value = _Unpickler(io.BytesIO(octets), encoding="utf-8", errors="surrogateescape").load()
        _vet_value(value)
    except _DAMAGE as error:
        raise pickle.UnpicklingError(f"{name} is no envelope: {str(error)[:200] or type(error).__name__}") from error
    return value


def write_envelope(file: BinaryIO, sender: str, recipient: str) -> None:
    """Write the envelope of one message to one recipient; the sender is "" for the null reverse-path.

    Raises: TypeError for anything but plain str, ValueError if read_envelope would find it too long; nothing is written
    then. OSError as the file does.
    """
    for address in (sender, recipient):
        if type(address) is not str:
            raise TypeError(f"an address in an envelope is a str, not {type(address).__name__}")
    octets = pickle.dumps([sender, recipient], protocol=_PROTOCOL)
    if len(octets) > ENVELOPE_OCTETS:
        raise ValueError(f"an envelope of {len(octets)} octets: {ENVELOPE_OCTETS} is the most")
    file.write(octets)


def _vet_opcodes(octets: bytes) -> None:
    # pickletools.genops would do, but for STRING: it takes ASCII only, and Python 2 wrote any octets there.
    stream = io.BytesIO(octets)
    while True:
        code = stream.read(1)
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise pickle.UnpicklingError(f"opcode {code!r} at octet {stream.tell() - 1}" if code else "it breaks off")
        if opcode.name == "STOP":
            return
        if opcode.name == "STRING":
            stream.readline()  # the unpickler judges what it is; here only its end counts
        elif opcode.arg is not None:
            # the readers refuse a length beyond the end, and read no more than there is
            _vet_argument(opcode.name, opcode.arg.reader(stream), len(octets))


def _vet_argument(name: str, argument: Any, octets: int) -> None:
    # The memo is an array as long as its largest index, and picklers count from 0, at most one an opcode.
    if name in _MEMO_WRITES and argument >= octets:
        raise pickle.UnpicklingError(f"memo index {argument} in {octets} octets")


def _vet_value(value: Any) -> None:
    # A list met twice may contain itself, or grow without bound for whoever walks it: 2**30 leaves in 200 octets.
    met: set[int] = set()
    level = [value]
    for _ in range(_DEPTH):
        below: list[Any] = []
        for item in level:
            if type(item) not in (str, bytes, int, list, tuple):
                raise pickle.UnpicklingError(f"it holds a {type(item).__name__}")
            if isinstance(item, int) and item.bit_length() > _NUMBER_BITS:
                raise pickle.UnpicklingError(f"it holds a number of {item.bit_length()} bits")
            if isinstance(item, (list, tuple)) and item:  # there is only one empty tuple
                if id(item) in met:
                    raise pickle.UnpicklingError(f"it holds the same {type(item).__name__} twice")
                met.add(id(item))
                below += item
        if not below:
            return
        level = below
    raise pickle.UnpicklingError(f"more than {_DEPTH} lists in one another")
