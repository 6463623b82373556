"""One line for a device: whole, or refused."""

from __future__ import annotations

import base64
import json
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.ca.invites import PREFIX, Invite, read_invite
from fedkit.errors import ConfigError
from fedkit.secagg.identity import SigningKey

VECTOR = Path(__file__).parents[1] / "vectors" / "enrol-1.json"


def test_a_line_comes_back_and_shows_no_secret(office: Any) -> None:
    made = office.invite("Station 7 ü")
    line = made.token()
    assert "\n" not in line
    assert line.startswith(PREFIX)
    assert read_invite(f"  {line}\n") == made
    assert made.seed.hex() not in repr(made)
    assert str(made.seed) not in repr(made)


def changed(token: str, **values: object) -> str:
    part = token.removeprefix(PREFIX)
    content = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    data = json.dumps({**content, **values}).encode()
    return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.parametrize(
    "values",
    [
        {"client": "another"},
        {"expires": 4102444800},
        {"ca": SigningKey(bytes(32)).public.hex()},
        {"ca": "00" * 32},
        {"server": "01" + "00" * 31},
        {"seed": "11" * 32},
        {"sanction": "22" * 64},
        {"seed": "11"},
        {"seed": None},
        {"more": 1},
        {"expires": -1},
        {"client": ""},
    ],
)
def test_a_forged_or_damaged_line_is_refused(office: Any, values: dict[str, object]) -> None:
    token = office.invite().token()
    assert read_invite(changed(token)) == read_invite(token)
    with pytest.raises(ConfigError, match="damaged"):
        read_invite(changed(token, **values))


@pytest.mark.parametrize(
    "line", ["", "fedkit2.abc", "fedkit1.", "fedkit1.é", "fedkit1.e30", "fedkit1." + "A" * 9000]
)
def test_what_is_no_invite(line: str) -> None:
    with pytest.raises(ConfigError, match=r"is no invite|damaged"):
        read_invite(line)


@given(st.data())
def test_a_letter_more_or_less_changes_nothing_that_the_ca_has_signed(data: st.DataObject) -> None:
    token = json.loads(VECTOR.read_text())["token"]
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from(string.printable))
    try:
        made = read_invite(token[:at] + letter + token[at + 1 :])
    except ConfigError:
        return
    told = read_invite(token)
    assert (made.ca, made.client, made.expires, made.seed, made.sanction) == (
        *(told.ca, told.client, told.expires),
        *(told.seed, told.sanction),
    ), "what the CA has signed is as it was"


def test_half_a_line_is_told_to_be_that(office: Any) -> None:
    token = office.invite().token()
    with pytest.raises(ConfigError, match="copy the whole line"):
        read_invite(token[:-10])


def test_the_vector_is_read_to_the_byte() -> None:
    vector = json.loads(VECTOR.read_text())
    made = read_invite(vector["token"])
    told = vector["invite"]
    assert made.token() == vector["token"]
    assert made == Invite(
        told["address"],
        bytes.fromhex(told["ca"]),
        bytes.fromhex(told["server"]),
        told["client"],
        told["expires"],
        bytes.fromhex(told["seed"]),
        bytes.fromhex(told["sanction"]),
    )
    with pytest.raises(ConfigError):
        replace(made, client="other")
