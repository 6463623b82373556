"""What a device is in a federation: where its aggregator is, its own id and key, and whom it believes.

A directory of a device that has joined holds

    identity.pem      its key                    aggregator.toml   address and id of the client
    trust.toml        whom it believes           certificate.pem, voucher   the CA's word, where a CA gives it
    next-ca.json      which CA takes over from which, once that was heard
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedkit import keyfile, toml
from fedkit.ca.certificates import EARLIER, read_certificate
from fedkit.ca.succession import FILE, Succession, believed
from fedkit.errors import ConfigError, CryptoError, DataError, nearest
from fedkit.keyfile import read_key
from fedkit.messages import ClientId
from fedkit.runfolder import replace_file, sync
from fedkit.secagg.identity import Certificate, Identity, SigningKey, Trust
from fedkit.secagg.rosterfile import read_trust, write_trust
from fedkit_clients.edge.files import private_folder
from fedkit_clients.edge.link import address_of

ABOUT, TRUST, CERTIFICATE, VOUCHER = "aggregator.toml", "trust.toml", "certificate.pem", "voucher"
READY, DONE = "next", "ready"
_KEYS = ("address", "client")
_FILES = (FILE, keyfile.NAME, TRUST, CERTIFICATE, VOUCHER, ABOUT)


@dataclass(frozen=True)
class Membership:
    """A client of one aggregator.

    address: https://HOST:PORT. voucher: the CA's signature that peers check in secure sessions, empty without
    a CA. certificate: the CA's word for the aggregator, in PEM; empty without a CA. ConfigError: what is here
    does not belong together.
    """

    address: str
    client: ClientId
    key: SigningKey = field(repr=False)
    trust: Trust
    voucher: bytes = b""
    certificate: bytes = b""

    def __post_init__(self) -> None:
        public, trust = self.key.public, self.trust
        if trust.kind == "none" or trust.vouches(self.client, public, self.voucher):
            return
        if trust.kind == "ca":
            raise ConfigError(f"the voucher of client {self.client!r} is not for its key: join again")
        known = trust.roster.get(self.client)
        why = "has another key for it" if known else f"does not; {nearest(self.client, trust.roster)}"
        raise ConfigError(
            f"the roster must have the key of client {self.client!r}, and {why}: its line is "
            f"{toml.dumps({self.client: public.hex()}).strip()}"
        )

    @property
    def half(self) -> float:
        """When the certificate is half over, in unix seconds; infinite without one."""
        return (self._validity[0] + EARLIER.total_seconds() + self.ends) / 2

    @property
    def ends(self) -> float:
        """When it is over."""
        return self._validity[1]

    @property
    def _validity(self) -> tuple[float, float]:
        if not self.certificate:
            return math.inf, math.inf
        made = read_certificate(self.certificate, self.trust.cas)
        return made.begins, made.ends

    @property
    def identity(self) -> Identity:
        """The client as it shows itself in secure sessions."""
        made = Certificate(self.client, self.key.public, self.voucher) if self.voucher else None
        return Identity(self.client, self.key, made)


def read_membership(directory: Path) -> Membership:
    """What `fedkit join` has written. DataError: it has not; ConfigError: a file is damaged."""
    address, client, trust = read_place(directory)
    trust, key = succeeded(directory, trust, time.time()), read_key(_at(directory, keyfile.NAME).parent)
    if trust.kind != "ca":
        return Membership(address, client, key, trust)
    certificate = _read(_at(directory, CERTIFICATE))
    try:
        voucher = bytes.fromhex(_read(_at(directory, VOUCHER)).decode("ascii"))
        read_certificate(certificate, trust.cas)
    except (CryptoError, ValueError) as error:
        raise ConfigError(
            f"{directory}: {CERTIFICATE} or {VOUCHER} is damaged, or of a CA whose time is over ({error}): "
            "join again with a new invite"
        ) from None
    return Membership(address, client, key, trust, voucher, certificate)


def read_place(directory: Path) -> tuple[str, ClientId, Trust]:
    """Where a device has joined and as whom, and whom it believed then: what holds also with an old
    certificate. DataError: it has not joined; ConfigError: a file is damaged.
    """
    path = _at(directory, ABOUT)
    if not path.exists():
        raise DataError(
            f"{path} is missing: join with `fedkit join TOKEN --dir {directory}`, or give a roster"
        )
    try:
        about, trust = _about(path), read_trust(_at(directory, TRUST))
    except (ConfigError, DataError) as error:
        raise ConfigError(f"{error}: join again with a new invite") from None
    return about["address"], about["client"], trust


def succeeded(directory: Path, trust: Trust, now: float) -> Trust:
    """What is believed by what was announced to a device with this trust. ConfigError: it is damaged."""
    return believed(_at(directory, FILE), trust, now)


def keep(directory: Path, made: Membership, heir: Succession | None = None) -> None:
    """Write a membership of a CA: all of it or, after a crash, what was there before.

    heir: the announcement by which `made` believes its CAs, if it was not written before. The files are laid
    ready in a folder of their own; `settle` finishes what a crash has stopped. Who calls this has a Root.
    """
    settle(directory)
    ready = directory / READY
    shutil.rmtree(ready, ignore_errors=True)
    private_folder(ready)
    keyfile.write_key(ready, made.key)
    write_trust(ready / TRUST, Trust.of_ca(made.trust.ca, made.trust.server))
    (ready / CERTIFICATE).write_bytes(made.certificate)
    (ready / VOUCHER).write_text(made.voucher.hex(), encoding="ascii")
    (ready / ABOUT).write_bytes(_about_text(made))
    if heir is not None:
        (ready / FILE).write_bytes(heir.data())
    for path in ready.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    replace_file(ready / DONE, b"")
    settle(directory)


def settle(directory: Path) -> None:
    """Put in place what lies ready and whole; to be called by who has the directory to itself."""
    ready = directory / READY
    if not (ready / DONE).exists():
        return
    for name in _FILES:
        if (ready / name).exists():
            (ready / name).replace(directory / name)
    sync(directory)
    shutil.rmtree(ready)


def _at(directory: Path, name: str) -> Path:
    """Where a file is now: what lies ready and whole counts, though it is not in place yet."""
    ready = directory / READY
    return ready / name if (ready / DONE).exists() and (ready / name).exists() else directory / name


def member(
    directory: Path, address: str = "", roster: Path | None = None, client: ClientId = ""
) -> Membership:
    """The device whose key is in `directory`: as it joined, or with an address as one of a roster. Without
    such a roster, the address is where the aggregator that it joined is now. Who calls this has a Root.
    """
    if not address:
        return read_membership(directory)
    if roster is None:
        raise ConfigError("an address without a roster: give --roster, or join with an invite")
    if _at(directory, ABOUT).exists() and not roster.exists():
        return moved(directory, address)
    return of_roster(address, directory, read_trust(roster), client)


def moved(directory: Path, address: str) -> Membership:
    """The device as it joined, whose aggregator has moved to `address`, which is kept. It is the same
    aggregator: its key stays pinned.
    """
    made = replace(read_membership(directory), address=str(address_of(address, "https")))
    replace_file(directory / ABOUT, _about_text(made))
    return made


def of_roster(address: str, directory: Path, trust: Trust, client: ClientId = "") -> Membership:
    """A client whose key is in `directory` and in the roster; client: default the name of the folder."""
    return Membership(address, client or directory.resolve().name, read_key(directory), trust)


def _about_text(made: Membership) -> bytes:
    return toml.dumps({"address": made.address, "client": made.client}).encode()


def _about(path: Path) -> Mapping[str, str]:
    try:
        tree = toml.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    for name in _KEYS:
        if not isinstance(tree.get(name), str):
            raise ConfigError(f"{path}: {name}: a text is due")
    if odd := sorted(set(tree) - set(_KEYS)):
        raise ConfigError(f"{path}: {odd[0]}: unknown key; {nearest(odd[0], _KEYS)}")
    return {name: str(tree[name]) for name in _KEYS}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; join again with a new invite") from None
