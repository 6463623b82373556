"""TLS with a pinned key, over real sockets: a peer with another key learns nothing."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fedkit.errors import ConfigError
from fedkit.secagg.identity import SigningKey
from fedkit_clients.edge.answers import Unreachable
from fedkit_clients.edge.meter import HANDSHAKE, Meter, wire_bytes
from fedkit_clients.edge.tls import _check, pinned
from fedkit_clients.edge.transport import HEAD, Transport

PIN = SigningKey(bytes(range(32)))
ANSWER = (
    b'HTTP/1.1 200 OK\r\nFedkit-Version: 1\r\nETag: "0.0000000000000000"\r\n'
    b"Content-Length: 3\r\nConnection: close\r\n\r\njob"
)


def files(folder: Path, private: Any, days: int = 30) -> Path:
    """A self-signed certificate and its key, in one file."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedkit aggregator")])
    made = x509.CertificateBuilder(name, name, private.public_key(), 1)
    begin = datetime.now(UTC) + timedelta(days=min(0, days) - 7)
    dated = made.not_valid_before(begin).not_valid_after(begin + timedelta(days=37))
    signed = dated.sign(private, SHA256() if isinstance(private, ec.EllipticCurvePrivateKey) else None)
    path = folder / "tls.pem"
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(signed.public_bytes(Encoding.PEM) + pem)
    return path


@contextmanager
def listening(path: Path, heard: list[bytes]) -> Iterator[str]:
    """A server of TLS that answers one request on each connection, and keeps what it hears."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            while True:
                try:
                    plain, _ = server.accept()
                except OSError:
                    return
                with plain:
                    try:
                        with context.wrap_socket(plain, server_side=True) as one:
                            heard.append(one.recv(1 << 16))
                            one.sendall(ANSWER)
                    except OSError as error:
                        heard.append(type(error).__name__.encode())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join()


def ask(url: str) -> tuple[str, bytes]:
    talk = Transport(url, "c", PIN, PIN.public)
    try:
        return talk.job()
    finally:
        talk.close()


@pytest.mark.parametrize("days", [30, -400])
def test_the_pinned_key_is_believed_whatever_the_date(tmp_path: Path, days: int) -> None:
    heard: list[bytes] = []
    path = files(tmp_path, Ed25519PrivateKey.from_private_bytes(PIN.secret), days)
    with listening(path, heard) as url:
        assert ask(url) == ("0" * 16, b"job")
    assert heard[0].startswith(b"GET /v1/job HTTP/1.1\r\n")


def test_how_a_connection_begins_is_counted_too(tmp_path: Path) -> None:
    meter, counts = Meter(), [0]
    with listening(files(tmp_path, Ed25519PrivateKey.from_private_bytes(PIN.secret)), []) as url:
        talk = Transport(url, "c", PIN, PIN.public, meter=meter)
        for _ in range(2):  # each on a connection of its own
            talk.job()
            counts.append(meter.used)
        talk.close()
    plain = 2 * wire_bytes(HEAD) + wire_bytes(len(b"job"))
    assert [b - a for a, b in pairwise(counts)] == 2 * [wire_bytes(HANDSHAKE) + plain]


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_another_key_is_told_nothing(tmp_path: Path, kind: str) -> None:
    heard: list[bytes] = []
    other = Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    with (
        listening(files(tmp_path, other), heard) as url,
        pytest.raises(Unreachable, match="this is not the aggregator"),
    ):
        ask(url)
    assert heard, "the handshake was tried"
    assert not any(b"HTTP" in data or b"fedkit" in data.lower() for data in heard)


def test_memory_buffers_are_checked_too(tmp_path: Path) -> None:
    """As a proxy that is reached by TLS itself would have it."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files(tmp_path, Ed25519PrivateKey.generate()))
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = pinned(PIN.public).wrap_bio(a, b)
    far = server.wrap_bio(b, a, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        near.do_handshake()
    with pytest.raises(ssl.SSLWantReadError):
        far.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError, match=r"^the peer's key .* this is not the aggregator$"):
        near.do_handshake()


def test_no_http_to_others() -> None:
    with pytest.raises(ConfigError, match="for this machine only"):
        Transport("http://192.168.1.7:1", "c", PIN, PIN.public)


@contextmanager
def proxy(asked: list[bytes]) -> Iterator[str]:
    """An HTTP proxy that makes one tunnel, and keeps what it was asked."""

    def serve() -> None:
        device, _ = door.accept()
        asked.append(device.recv(1 << 16))
        host, _, port = asked[0].split(b" ")[1].rpartition(b":")
        server = socket.create_connection((host.decode(), int(port)))
        device.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        back = threading.Thread(target=_pass, args=(server, device))
        back.start()
        _pass(device, server)
        back.join()
        device.close()
        server.close()

    with socket.create_server(("127.0.0.1", 0)) as door:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        thread.join()


def _pass(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            to.sendall(data)
    with suppress(OSError):
        to.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("right", [True, False])
def test_a_proxy_sees_an_address_and_nothing_else(tmp_path: Path, right: bool) -> None:
    key = PIN if right else SigningKey(b"x" * 32)
    path, heard, asked = (
        files(tmp_path, Ed25519PrivateKey.from_private_bytes(key.secret)),
        list[bytes](),
        list[bytes](),
    )
    with listening(path, heard) as url, proxy(asked) as way:
        talk = Transport(url, "c", PIN, PIN.public, proxy=way)
        if right:
            assert talk.job()[1] == b"job"
        else:
            with pytest.raises(Unreachable, match="not the aggregator"):
                talk.job()
        talk.close()
    assert asked[0].startswith(b"CONNECT 127.0.0.1:")
    assert b"Fedkit" not in asked[0], "the headers of requests are for the aggregator"
    assert any(b"Fedkit-Signature" in one for one in heard) == right


@pytest.mark.parametrize(
    ("was", "becomes"), [("06032b6570032100", "06032b657f032100"), ("a003020102", "a003020130")]
)
def test_a_key_or_version_of_a_kind_that_nobody_knows_is_not_the_pinned_one(
    tmp_path: Path, was: str, becomes: str
) -> None:
    """OpenSSL takes kinds of keys, and versions, that the library for certificates does not; and whoever
    answers at the aggregator's address may show them.
    """
    made = x509.load_pem_x509_certificate(files(tmp_path, Ed25519PrivateKey.generate()).read_bytes())
    der = made.public_bytes(Encoding.DER)
    odd = der.replace(bytes.fromhex(was), bytes.fromhex(becomes), 1)
    assert odd != der
    with pytest.raises(ssl.SSLCertVerificationError, match="none of Ed25519"):
        _check(pinned(PIN.public), odd)
