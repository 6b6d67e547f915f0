# SPDX-License-Identifier: MIT
"""Config and sockets passed by a service manager -> Config whose listeners are at these sockets' addresses.

A socket belongs to the listener that names its address; else to the one whose mode is its name ("smtp" is "relay"),
and there it stands for the addresses of its port. What no socket stands for is bound as ever. Opens nothing.
Called by assemble, at the start and for each new Config.
"""

from collections.abc import Sequence

from msgspec.structs import replace

from smarthost.backends.systemd import PassedSocket
from smarthost.config import Config, Endpoint, ListenerSection, Mode
from smarthost.config.contradictions import find_contradictions
from smarthost.mail.errors import ConfigError

_MODES = {"smtp": Mode.RELAY, **{mode.value: mode for mode in Mode}}
_KEY = "LISTEN_FDS"


def listen_at_passed(config: Config, passed: Sequence[PassedSocket]) -> Config:
    """Give the Config with each passed socket in the listener that it is for.

    Raises: ConfigError: a socket is for no listener, or for one that must not be reached at its address.
    """
    doors = [list(config.listen), *[list(each.listen) for each in config.listeners]]
    modes = [Mode.RELAY, *[each.mode for each in config.listeners]]
    for socket in passed:
        _place(socket, doors, modes)
    changed = replace(
        config,
        listen=tuple(doors[0]),
        listeners=tuple([_moved(each, door) for each, door in zip(config.listeners, doors[1:], strict=True)]),
    )
    if changed != config:
        for key, detail in find_contradictions(changed):
            raise ConfigError(f"with the sockets that were passed: {key}: {detail}", key=_KEY)
    return changed


def _moved(section: ListenerSection, door: list[Endpoint]) -> ListenerSection:
    return replace(section, listen=tuple(door))


def _place(socket: PassedSocket, doors: list[list[Endpoint]], modes: list[Mode]) -> None:
    here = Endpoint(*socket.address)
    if any(here in door for door in doors):
        named = next(door for door in doors if here in door)
    else:
        named = _by_name(socket, doors, modes)
        named.append(here)
    named[:] = [each for each in named if each == here or not _stands_for(socket, each)]


def _by_name(socket: PassedSocket, doors: list[list[Endpoint]], modes: list[Mode]) -> list[Endpoint]:
    """Give the one door of this mode, or of several the one that has an address of this port."""
    mode = _MODES.get(socket.name)
    meant = [door for door, its in zip(doors, modes, strict=True) if its is mode and door]
    of_port = [door for door in meant if any(each.port == socket.address[1] for each in door)]
    if len(meant) == 1 or len(of_port) == 1:
        return (of_port or meant)[0]
    known = ", ".join(f'"{name}"' for name in _MODES)
    why = "no listener has its address" if not meant else f"{len(meant)} listeners have that mode"
    cure = "put its address into `listen` of the listener it is for"
    if mode is None:
        cure += f", or name it after a mode (FileDescriptorName= {known})"
    raise ConfigError(f"nobody takes the passed socket {socket}: {why}; {cure}", key=_KEY)


def _stands_for(socket: PassedSocket, endpoint: Endpoint) -> bool:
    """Is the port the same, and the socket everywhere, where that address could not be bound beside it?"""
    host, port = socket.address
    if endpoint.port != port:
        return False
    if host == "::":
        return socket.is_dual or ":" in endpoint.host
    return host == "0.0.0.0" and ":" not in endpoint.host  # noqa: S104 - compared, not bound
