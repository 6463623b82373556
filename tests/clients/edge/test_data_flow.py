"""docs/data-flow.md lists all that leaves a device; the bytes of real conversations are held against it."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from fedkit import scenario
from fedkit.aggregator.serve import serve
from fedkit.aggregator.service import Service
from fedkit.ca.authority import Authority, make_authority
from fedkit.ca.requests import Request, read_request
from fedkit.keyfile import make_key
from fedkit.launch import make_workload
from fedkit.secagg.identity import SigningKey, Trust
from fedkit.secagg.messages import Advert, Boxes, Stage
from fedkit_clients.edge import enrolment, runtime, transport
from fedkit_clients.edge.answers import Refused, Unreachable
from fedkit_clients.edge.device import Device
from fedkit_clients.edge.membership import Membership
from fedkit_clients.edge.offers import Blob
from fedkit_clients.edge.policy import DevicePolicy
from fedkit_clients.edge.root import Root
from fedkit_clients.edge.runtime import EdgeClient
from fedkit_clients.edge.sessions import vouch
from fedkit_clients.edge.transport import Transport
from tests.clients.edge.overhttpx import OverHttpx
from tests.ports import reserved

PAGE = Path(__file__).parents[3] / "docs" / "data-flow.md"
NAMES = tuple(f"c{i}" for i in range(4))
OWN = """
import numpy as np
from fedkit_clients.numpy_trainer import NumpyWorkload, Softmax

def make(*, seed: int):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 200)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    return NumpyWorkload(Softmax(200, 2), {f"c{i}": (x[i::4], y[i::4]) for i in range(4)}, test=(x, y))
"""
TOML = """
workload = "own.py:make"
[rounds]
count = 2
quorum = 2
deadline = 600.0
evaluate_on = "clients"
[codec]
down = "tensors:below=1|sign"
down_base = "first"
[train]
epochs = 1
batch = 5
lr = 0.3
"""
SECURE = '[secagg]\nmode = "lying_server"\nwidth = 64\n'
Found = dict[str, set[str]]


def listed() -> Found:
    """The fields of the page, by the headings of its tables."""
    found: Found = {}
    for part in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        if names := re.findall(r"^\| `([^`]+)` \|", part, re.M):
            found[part.splitlines()[0]] = set(names)
    return found


class Tap:
    """Passes connections on to the port `to` of this machine, and keeps what clients say."""

    def __init__(self, to: int) -> None:
        self._to, self.said = to, list[bytearray]()
        self._open, self._passing = list[socket.socket](), list[threading.Thread]()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._listening = threading.Thread(target=self._listen)
        self._listening.start()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._listening.join()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._passing:
            thread.join()
        for one in (*self._open, self._socket):
            one.close()

    def _listen(self) -> None:
        while True:
            try:
                device = self._socket.accept()[0]
            except OSError:
                return
            kept = bytearray()
            self.said.append(kept)
            self._open.append(device)
            try:
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:  # nobody listens any more: what the device says is kept all the same
                kept += device.recv(1 << 16)
                device.shutdown(socket.SHUT_RDWR)
                continue
            self._open.append(server)
            for way in ((device, server, kept), (server, device, bytearray())):
                self._passing.append(threading.Thread(target=_pass, args=way))
                self._passing[-1].start()


def _pass(source: socket.socket, to: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):  # where one side breaks off, so does the other
        while data := source.recv(1 << 16):
            kept += data
            to.sendall(data)
    with suppress(OSError):
        to.shutdown(socket.SHUT_WR)


@dataclass
class Said:
    """What was found in the bytes of conversations, by the headings of the page."""

    found: Found = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)

    def add(self, heading: str, *names: str) -> None:
        self.found.setdefault(heading, set()).update(names)

    def conversation(self, data: bytes) -> None:
        """All requests of one connection, to the last byte; one that broke off is left out."""
        while data:
            head, gap, rest = data.partition(b"\r\n\r\n")
            if not gap:
                return
            first, *lines = head.decode("ascii").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            assert len(headers) == len(lines)
            size = int(headers.get("content-length", 0))
            assert "transfer-encoding" not in headers
            if len(rest) < size:
                return
            method, target, version = first.split(" ")
            assert version == "HTTP/1.1"
            self.request(method, target, headers, rest[:size])
            data = rest[size:]

    def request(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.add("Every request", *headers)
        where = urlsplit(target)
        assert not where.fragment
        place = re.sub(r"(?<=^/v1/blobs/)[0-9a-f]{64}$", "SHA256", where.path)
        place = re.sub(r"(?<=^/v1/uploads/)[0-9a-f]{32}$", "ID", place)
        self.add("Addresses of requests", place, *(name for name, _ in parse_qsl(where.query, True)))
        if method in ("PATCH", "PUT"):
            held = self.uploads.setdefault(where.path, bytearray())
            held[int(headers.get("upload-offset", "0")) :] = body
        elif method == "POST":
            self.add({"/v1/tasks": "Acknowledgements"}.get(place, "Uploads"), *json.loads(body))
        else:
            assert (method, body) == ("GET", b"")

    def messages(self) -> None:
        """What was uploaded, as docs/wire.md has it."""
        for frame in self.uploads.values():
            data = bytes(frame)
            assert data[:3] == b"FK\x01"
            head, table = (int.from_bytes(data[at : at + 4], "little") for at in (4, 8))
            size = int.from_bytes(data[12:20], "little")
            assert (table, len(data)) == (0, 36 + head + size)
            self.message(data[3], json.loads(data[20 : 20 + head]), data[20 + head : -16])

    def message(self, kind: int, header: dict[str, Any], body: bytes) -> None:
        if kind == 5:
            assert set(header) == {"key"}
            stage = header["key"][3]
            self.add("Secure sessions", "key", stage)
            if stage == Stage.advertise:
                assert Advert.from_bytes(body).to_bytes() == body
            elif stage == Stage.share:
                assert Boxes.from_bytes(body, len(NAMES) - 1).to_bytes() == body
            return
        names = {2: "Updates", 3: "Failures"}[kind]
        self.add(names, *header, *(["payload"] if body else []))
        assert kind == 2 or not body


class Breaks:
    """A workload whose first client fails at its second task."""

    def __init__(self, workload: Any) -> None:
        self._workload, self._left = workload, 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_workload"], name)

    def trainer(self, client: str) -> Any:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError(f"the record of Ada Lovelace has no field {client}")
        return self._workload.trainer(client)


def run_client(
    stop: threading.Event, url: str, name: str, key: SigningKey, trust: Trust, folder: Path, given: Any
) -> None:
    """One device, until it is told to stop."""
    workload, plain = make_workload(given), given.secagg.mode == "off"
    device = Device(DevicePolicy(strategies=("fedprox",))) if plain and name == "c3" else Device()
    who = Membership(url, name, key, trust)
    talk = Transport(url, name, key, trust.server)
    shown = Breaks(workload) if plain and name == "c0" else workload
    client = EdgeClient(
        talk, name, shown, Root(folder), device=device, vouch=lambda floors: vouch(who, folder, floors)
    )
    while not stop.is_set():
        try:
            client.step()
        except (Unreachable, Refused, OSError):
            stop.wait(0.05)
    client.close()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr(runtime, "PATIENCE", 1)
    monkeypatch.setattr(runtime, "LONGEST", 1)
    monkeypatch.setattr(runtime, "HASTE", 0.0)
    monkeypatch.setattr(transport, "FIRST", 400)  # what is longer is begun, and goes on


@contextmanager
def tapped(folder: Path) -> Iterator[tuple[int, Tap]]:
    with reserved() as port:
        tap = Tap(port)
        try:
            yield port, tap
        finally:
            tap.close()


def talk_of(folder: Path, text: str) -> Sequence[bytes]:
    """What four devices say in a run, connection by connection."""
    folder.mkdir()
    (folder / "own.py").write_text(OWN)
    (folder / "s.toml").write_text(text)
    given, server = scenario.read(str(folder / "s.toml")), make_key(folder / "server")
    keys = {name: make_key(folder / name) for name in NAMES}
    trust = Trust.of_roster({name: key.public for name, key in keys.items()}, server.public)
    stop = threading.Event()
    with tapped(folder) as (port, tap):
        url = f"http://127.0.0.1:{tap.port}"
        devices = [
            threading.Thread(target=run_client, args=(stop, url, n, keys[n], trust, folder / n, given))
            for n in NAMES
        ]
        for device in devices:
            device.start()
        service = Service(trust, server, port=port, wait_for=4, patience=600.0)
        try:
            serve(given, service, folder / "journal", out=folder / "run")
        finally:
            stop.set()
            for device in devices:
                device.join()
        _resume(url, keys["c1"], folder)
    return [bytes(kept) for kept in tap.said]


def _resume(url: str, key: SigningKey, folder: Path) -> None:
    """Ask for the rest of a blob; nobody listens any more, and the bytes leave all the same."""
    (folder / "part").write_bytes(b"1")
    talk = Transport(url, "c1", key, key.public)
    with pytest.raises(Unreachable):
        talk.blob(Blob("0" * 64, 2), folder / "part")
    talk.close()


class CA:
    """An aggregator whose CA answers at once; keeps what devices say."""

    def __init__(self, folder: Path, said: Said) -> None:
        make_authority(folder)
        self.authority, self.said = Authority(folder), said
        self._asked: dict[str, Request] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        told = {name.lower(): value for name, value in request.headers.items()}
        self.said.add("Every request", *told)
        marks = {"Fedkit-Version": "1"}
        if request.method == "POST":
            assert request.url.raw_path == b"/v1/enrol"
            self.said.add("Enrolment", *json.loads(request.content))
            asked = read_request(request.content)
            self._asked[asked.id] = asked
            kept = httpx.ByteStream(json.dumps({"id": asked.id}).encode())
            return httpx.Response(202, stream=kept, headers=marks)
        assert (request.method, request.content) == ("GET", b"")
        if request.url.path == "/v1/enrol/next":
            none = httpx.ByteStream(b'{"error": "unknown", "message": ""}')
            return httpx.Response(404, stream=none, headers=marks)
        asked = self._asked[request.url.path.removeprefix("/v1/enrol/")]
        answer = httpx.ByteStream(self.authority.answer(asked).data())
        return httpx.Response(200, stream=answer, headers=marks)


def test_all_that_leaves_a_device_is_listed_and_nothing_else(tmp_path: Path) -> None:
    said, secrets = Said(), (b"Ada Lovelace", b"RuntimeError:", str(tmp_path).encode(), b"Traceback")
    for name, text in (("plain", TOML), ("secure", TOML + SECURE)):
        for data in talk_of(tmp_path / name, text):
            assert not any(secret in data for secret in secrets)
            said.conversation(data)
    said.messages()
    ca = CA(tmp_path / "ca", said)
    with ca.authority as authority:
        invite = authority.invite("c9", "https://h:1", SigningKey(bytes(32)).public)
        enrolment.join(
            invite.token(), tmp_path / "c9", way=OverHttpx(ca.handle_request), sleep=lambda seconds: None
        )
    page = listed()
    assert not [(h, name) for h, names in said.found.items() for name in names - page.get(h, set())]
    never = [(h, name) for h, names in page.items() for name in names - said.found.get(h, set())]
    assert not never, "these never came: the page is out of date"


def test_a_field_that_is_not_listed_is_found() -> None:
    said = Said()
    said.conversation(b"GET /v1/tasks?wait=3&mood=good HTTP/1.1\r\nHost: h\r\nUser-Agent: pi\r\n\r\n")
    said.conversation(b'POST /v1/tasks HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"me": 1}')
    page = listed()
    odd = {name for heading, names in said.found.items() for name in names - page[heading]}
    assert odd == {"mood", "user-agent", "me"}
