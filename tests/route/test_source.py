# SPDX-License-Identifier: MIT
"""Who speaks to a destination."""

from smarthost.route.source import Speaker, Speakers


def test_one_speaker_speaks_to_all() -> None:
    """Every destination hears the same name, from the address the system chooses."""
    speakers = Speakers(Speaker("mail.example.org"))

    assert speakers.speaker_of("example.com") == Speaker("mail.example.org", "")
    assert speakers.speaker_of("hop:relay:25") == speakers.speaker_of("example.com")
