"""Blobs are there whole or not at all, also after a power cut."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedkit.aggregator.blobs import Blobs


def test_a_blob_is_found_by_its_digest(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    digest = blobs.put(b"model")
    assert digest == hashlib.sha256(b"model").hexdigest()
    path = blobs.find(digest)
    assert path is not None
    assert path.read_bytes() == b"model"
    assert blobs.find("0" * 64) is blobs.find("../x") is None


def test_what_a_power_cut_damaged_is_gone_and_can_be_put_again(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    whole, torn = blobs.put(b"whole"), blobs.put(b"torn!")
    path = blobs.find(torn)
    assert path is not None
    path.write_bytes(bytes(5))
    path.with_name(path.name + ".tmp").write_bytes(b"tor")
    blobs.check()
    assert blobs.find(whole) is not None
    assert blobs.find(torn) is None
    assert not list(tmp_path.glob("??/*.tmp"))
    assert blobs.put(b"torn!") == torn
    assert path.read_bytes() == b"torn!"


def test_only_what_is_wanted_is_kept(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    kept, gone = blobs.put(b"a"), blobs.put(b"b")
    blobs.keep({kept})
    assert blobs.find(kept) is not None
    assert blobs.find(gone) is None
