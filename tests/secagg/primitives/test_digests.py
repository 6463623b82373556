"""Commitments and Merkle roots."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.secagg.primitives.digests import commit, merkle_root, opens, same

SID = bytes(range(32))
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        bytes(range(0x60, 0x70)).hex(),
    )
]


@pytest.mark.parametrize(
    ("count", "root"),
    [
        (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        (4, "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        (5, "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
        (6, "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
        (7, "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ],
)
def test_merkle_roots_of_certificate_transparency(count: int, root: str) -> None:
    """The reference tree of RFC 6962's own implementation."""
    assert merkle_root(ENTRIES[:count]).hex() == root


@given(st.lists(st.binary(max_size=4), max_size=9), st.lists(st.binary(max_size=4), max_size=9))
def test_a_root_tells_lists_apart(a: list[bytes], b: list[bytes]) -> None:
    assert (merkle_root(a) == merkle_root(b)) == (a == b)


def test_an_inner_node_is_no_leaf() -> None:
    """Two leaves' hashes joined, as an entry, do not have the root of the two leaves."""
    joined = b"".join(sha256(b"\0" + entry).digest() for entry in (b"a", b"b"))
    assert merkle_root([joined]) != merkle_root([b"a", b"b"])


def test_a_commitment_is_the_hash_of_the_page() -> None:
    assert commit(SID, b"s" * 32) == sha256(b"b" + SID + b"s" * 32).digest()


def test_a_commitment_opens_to_its_secret_in_its_session_only() -> None:
    made = commit(SID, b"s" * 32)
    assert opens(made, SID, b"s" * 32)
    assert not opens(made, SID, b"t" * 32)
    assert not opens(made, bytes(32), b"s" * 32)
    assert not opens(made[:-1], SID, b"s" * 32)


def test_same_compares_whole_byte_strings() -> None:
    assert same(b"abc", b"abc")
    assert not same(b"abc", b"abd")
    assert not same(b"abc", b"ab")
