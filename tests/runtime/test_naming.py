"""Names and foreign texts as they are shown."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flare_runtime.files.naming import visible, visible_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("liver 0001 (Ä, 肝)", "liver 0001 (Ä, 肝)"),
        (os.fsdecode(b"M\xfcller"), r"M\xfcller"),
        ("two\nlines\r\tand", r"two\nlines\r\tand"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),  # the one-byte form of an escape sequence
        ("a\u2028b\u202egnp.\x7f", r"a\u2028b\u202egnp.\x7f"),
        ("\ud800", r"\ud800"),
        (r"a back\slash", r"a back\slash"),
    ],
)
def test_what_a_terminal_would_act_on_is_spelled_out(text, shown):
    assert visible(text) == shown


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Z", "C"])))
def test_any_text_becomes_one_valid_line_and_stays_that(text):
    shown = visible(text)
    shown.encode()
    assert len(shown.splitlines()) == bool(text)
    assert all(character.isprintable() or ord(character) >= 0xA0 or character == " " for character in shown)
    assert visible(shown) == shown


def test_lines_stay_lines():
    assert visible_lines("Traceback\n  \x1b[1m\n") == "Traceback\n  \\x1b[1m"
