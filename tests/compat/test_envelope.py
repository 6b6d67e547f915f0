# SPDX-License-Identifier: MIT
"""Envelope files: what the original wrote is read, and nothing else is ever imported, built or waited for."""

import io
import pickle
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smarthost.compat import envelope
from smarthost.compat.envelope import ENVELOPE_OCTETS, read_envelope, write_envelope

# cPickle.dumps(v, 0), pickle.dumps(v, 0) and cPickle.dumps(v, 2) of Python 2.7.18,
# v = ["ren\xc3\xa9@example.org", "fred@example.com"]
PYTHON_2_C = b"(lp1\nS'ren\\xc3\\xa9@example.org'\np2\naS'fred@example.com'\np3\na."
PYTHON_2_PY = b"(lp0\nS'ren\\xc3\\xa9@example.org'\np1\naS'fred@example.com'\np2\na."
PYTHON_2_PROTOCOL_2 = b"\x80\x02]q\x01(U\x11ren\xc3\xa9@example.orgq\x02U\x10fred@example.comq\x03e."

PLAIN = st.recursive(
    st.text() | st.binary() | st.integers(),
    lambda below: st.lists(below, max_size=4) | st.lists(below, max_size=4).map(tuple),
    max_leaves=8,
)


def read(octets: bytes) -> Any:
    return read_envelope(io.BytesIO(octets), "q/1-H")


def refuse(octets: bytes, why: str = "") -> None:
    with pytest.raises(pickle.UnpicklingError, match=f"q/1-H is no envelope: .*{why}"):
        read(octets)


def admits(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(admits(item) for item in value)
    return type(value) in (str, bytes, int)


def read_or_refuse(octets: bytes) -> None:
    try:
        value = read(octets)
    except pickle.UnpicklingError as error:
        told = str(error)
    else:
        assert admits(value)
        told = f"q/1-H {value!r}"
    assert told.startswith("q/1-H ")


@pytest.mark.parametrize("protocol", range(6))
def test_an_envelope_of_any_protocol_is_read_as_pickle_reads_it(protocol: int) -> None:
    """Addresses, numbers and nesting come back as they were, whichever pickle protocol wrote them."""
    value = ["alice@example.org", "josé@example.net", 3, -1, 2**70, [], (), ("a", "b", "c", "d"), ["x", ("y",)]]

    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("octets", [PYTHON_2_C, PYTHON_2_PY, PYTHON_2_PROTOCOL_2])
def test_an_envelope_python_2_wrote_is_read_as_text(octets: bytes) -> None:
    """Python 2 strings become text, read as UTF-8."""
    assert read(octets) == ["rené@example.org", "fred@example.com"]


def test_octets_that_are_no_utf_8_survive_as_surrogates() -> None:
    """A Latin-1 address of a Python 2 program can be turned back into its octets."""
    sender, recipient = read(b"(lp1\nS'ren\\xe9@example.org'\np2\naS'b@c'\np3\na.")

    assert sender.encode("utf-8", "surrogateescape") == b"ren\xe9@example.org"
    assert recipient == "b@c"


def test_bytes_of_python_3_are_read_and_stay_bytes() -> None:
    """A program that keeps addresses as octets finds octets."""
    assert read(pickle.dumps([b"a@b", b"c@d"], 4)) == [b"a@b", b"c@d"]


def test_what_follows_the_pickle_is_not_read() -> None:
    """A file with something of its own after the envelope is read as pickle.load read it."""
    assert read(pickle.dumps(["a@b", "c@d"]) + b"cos\nsystem\n\0\0") == ["a@b", "c@d"]


def test_the_envelope_is_written_for_every_python() -> None:
    """What we write is a plain pickle, of a protocol that Python 2 reads."""
    file = io.BytesIO()

    write_envelope(file, "", "c@d.example")

    assert pickle.loads(file.getvalue()) == ["", "c@d.example"]
    assert file.getvalue()[:2] == b"\x80\x02"


@given(sender=st.text(st.characters(), max_size=80), recipient=st.text(st.characters(), max_size=80))
def test_what_was_written_reads_back(sender: str, recipient: str) -> None:
    """Any two texts come back as they were."""
    file = io.BytesIO()
    write_envelope(file, sender, recipient)

    assert read(file.getvalue()) == [sender, recipient]


def test_an_envelope_that_could_not_be_read_back_is_not_written() -> None:
    """No envelope is begun that read_envelope would refuse: too long, or of anything but text."""
    file = io.BytesIO()

    with pytest.raises(ValueError, match="65536 is the most"):
        write_envelope(file, "a" * ENVELOPE_OCTETS, "c@d")
    with pytest.raises(TypeError, match="not bytes"):
        write_envelope(file, b"a@b", "c@d")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not Odd"):
        write_envelope(file, "a@b", type("Odd", (str,), {})("c@d"))

    assert file.getvalue() == b""


class Reduced:
    """Pickled as a call of os.system."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("true",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [Reduced(), None, True, 1.5, {}, set(), frozenset("a"), bytearray(b"a"), len, Exception, object(), {"a": 1}, 1j],
    ids=lambda value: type(value).__name__,
)
def test_nothing_but_the_admitted_types_is_read(value: Any, protocol: int) -> None:
    """Globals, calls, objects, dicts, sets, floats, None, bools and bytearrays are refused, wherever they stand."""
    refuse(pickle.dumps(["a@b", value], protocol))
    refuse(pickle.dumps(value, protocol))


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"cos\nsystem\n(S'touch x'\ntR.", "opcode b'c'"),
        (b"(S'touch x'\nios\nsystem\n.", "opcode b'i'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"opcode b'\\x93'"),
        (b"Pthing\n.", "opcode b'P'"),
        (b"\x80\x02\x88Q.", r"opcode b'\\x88'"),
        (b"\x80\x02K\x01Q.", "opcode b'Q'"),
        (b"\x80\x02\x82\x01.", r"opcode b'\\x82'"),
        (b"]N}b.", "opcode b'N'"),
        (b"\x80\x05\x97.", r"opcode b'\\x97'"),
        (b"I01\n.", "a bool"),
        (b"I00\n.", "a bool"),
        (b"", "breaks off"),
        (b"]", "breaks off"),
        (b"\x80\x02]q\x01(U\x10ren", "expected 16 bytes"),
        (b"\x80\xff].", "protocol"),
        (b".", ""),
        (b"e.", ""),
        (b"h\x05.", ""),
        (b"]q\x00(K\x01K\x02", "breaks off"),
        (b"K\x01K\x02a.", "append"),
        (b"S'half\n.", ""),
        (b"I" + b"9" * 5000 + b"\n.", ""),
        (b"\x8b\xf0\xff\x00\x00" + b"\x7f" * 0xFFF0 + b".", "number of 524159 bits"),
        (b"X\xff\xff\xff\xff" + b"a" * 20, "expected"),
        (b"\x8e" + b"\xff" * 8 + b"a", "maxsize"),
        (b"\x8b\xff\xff\xff\x7f", "not enough"),
        (b"\x80\x04\x95" + b"\xff" * 8 + b"].", ""),
    ],
)  # fmt: skip
def test_a_damaged_or_hostile_file_is_named_with_the_reason(octets: bytes, why: str) -> None:
    """Whatever is wrong, the file and the reason are told, as one kind of error."""
    refuse(octets, why)


@pytest.mark.parametrize("put", [b"r\xff\xff\xff\xff", b"r\x00\x00\x00\x10", b"p4294967295\n", b"p999999999999\n"])
def test_a_huge_memo_index_allocates_nothing(put: bytes) -> None:
    """A file of ten octets cannot make the reader allocate gigabytes for a memo."""
    refuse(b"]" + put + b".", "memo index")


def test_a_file_beyond_the_bound_is_refused_unread() -> None:
    """At most 64 KiB are read, be the file whole or endless."""
    fits = pickle.dumps(["a" * (ENVELOPE_OCTETS - 100), "b"])

    class Endless(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert 0 < size <= ENVELOPE_OCTETS + 1
            return b"]" * size

    assert read(fits)[1] == "b"
    refuse(fits + b"." * 200, "more than 65536 octets")
    with pytest.raises(pickle.UnpicklingError, match="more than 65536"):
        read_envelope(Endless(), "q/1-H")


@pytest.mark.parametrize("wrap", [b"]" + b"]" * 30_000 + b"a" * 30_000, b")" + b"\x85" * 60_000, b"(" * 60_000])
def test_deep_nesting_does_not_blow_the_stack(wrap: bytes) -> None:
    """Lists in lists in lists are refused beyond sixteen, whoever prints or compares the value."""
    refuse(wrap + b".")


def test_sixteen_lists_in_one_another_are_the_most() -> None:
    """The bound on nesting is where it is said to be."""
    value: Any = "a@b"
    for _ in range(15):
        value = [value]

    assert read(pickle.dumps(value)) == value
    refuse(pickle.dumps([value]), "more than 16 lists")


@pytest.mark.parametrize("octets", [b"]q\x00h\x00a.", b"](q\x00e.", b"(lp0\ng0\na."])
def test_a_list_that_contains_itself_is_refused(octets: bytes) -> None:
    """A list in itself does not hang whoever walks it."""
    refuse(octets)


def test_shared_lists_that_would_grow_without_bound_are_refused() -> None:
    """Two hundred octets that stand for 2**30 leaves are refused, and at once."""
    value: Any = []
    value.append("a")
    for _ in range(30):
        value = [value, value]
    octets = pickle.dumps(value, 2)
    started = time.perf_counter()

    refuse(octets, "same list twice")

    assert len(octets) < 500
    assert time.perf_counter() - started < 1


def test_a_shared_text_and_the_empty_tuple_are_no_loops() -> None:
    """A message to oneself holds the same text twice, and there is only one empty tuple."""
    one = "a@example.org"

    assert read(pickle.dumps([one, one, (), ()])) == [one, one, (), ()]


@pytest.mark.parametrize(
    "octets",
    [b"(" * 65_000 + b"t" * 500 + b".", b"(lp0\n" + b"I1\na" * 16_000 + b".", b"L" + b"9" * 4000 + b"L\n.",
     b"\x8b\xf0\xff\x00\x00" + b"\x7f" * 0xFFF0 + b".", b"]" + b"q\x00" * 32_000 + b".", b")" * 65_000 + b"."],
)  # fmt: skip
def test_the_worst_file_costs_little_time(octets: bytes) -> None:
    """No file of 64 KiB holds up the reactor for long."""
    started = time.perf_counter()

    read_or_refuse(octets)

    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "octets", [b"cos\nsystem\n(S'true'\ntR.", b"\x80\x04\x8c\x02os\x8c\x06system\x93.", b"Pthing\n."]
)
def test_the_second_lock_holds_alone(octets: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were an opcode overlooked, nothing would be imported all the same."""
    monkeypatch.setattr(envelope, "_vet_opcodes", lambda octets: None)

    refuse(octets, "it asks for")


def test_a_disk_that_cannot_be_read_is_no_damage() -> None:
    """An error of the disk stays an OSError: the envelope may be sound."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        read_envelope(Broken(), "q/1-H")


@given(octets=st.binary(max_size=200))
@example(octets=b"(I1\n(lp0\nt.")
@example(octets=b"]]aa.")
def test_any_octets_are_an_admitted_value_or_refused(octets: bytes) -> None:
    """Whatever is in the file: plain values, or UnpicklingError."""
    read_or_refuse(octets)


OPCODES = (
    b".(0125FIJKLMNPQRSTUVXabcdeghijlopqrstu})]\x80\x81\x82\x85\x86\x87\x88\x8a\x8b\x8c\x8d\x8e\x90\x93\x94\x95BC\x96"
)


@given(parts=st.lists(st.sampled_from([bytes([code]) for code in OPCODES]) | st.binary(max_size=6), max_size=40))
def test_any_opcodes_are_an_admitted_value_or_refused(parts: list[bytes]) -> None:
    """Files made of opcodes in any order: plain values, or UnpicklingError."""
    read_or_refuse(b"".join(parts) + b".")


@given(value=PLAIN, protocol=st.integers(0, 5), draw=st.integers(0, 2**32), put=st.binary(max_size=4))
def test_any_change_of_a_sound_envelope_is_read_or_refused(value: Any, protocol: int, draw: int, put: bytes) -> None:
    """A few octets changed, cut or inserted: plain values, or UnpicklingError."""
    octets = pickle.dumps([value, "a@b"], protocol)
    at = draw % (len(octets) + 1)

    read_or_refuse(octets[:at] + put + octets[at:])
    read_or_refuse(octets[:at] + put + octets[at + len(put) :])
    read_or_refuse(octets[:at])


@given(value=PLAIN, protocol=st.integers(3, 5))
def test_plain_values_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    """Text, octets and numbers in lists and tuples come back, by a protocol that knows octets."""
    assert read(pickle.dumps(value, protocol)) == value
