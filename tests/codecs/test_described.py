"""A second decoder, written from docs/wire.md without the codecs' code: the page says enough.

It takes plain loops over plain numbers. It reads every golden payload.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

FOLDER = Path(__file__).parents[1] / "vectors" / "codecs"
INDEX = json.loads((FOLDER / "index.json").read_text())
GROUP = 131_072
DEFAULTS = "tensors/1:small=bfloat16,below=1024,exempt="
RUNGS = (
    "bfloat16/1:mode=stoch", "ecsq/1:delta=4,mode=stoch,block=4096", "ecsq/1:delta=16,mode=stoch,block=4096",
    "eden/1:bits=1,keep=0.1,scale=unbiased", "eden/1:bits=1,keep=0.05,scale=unbiased",
)  # fmt: skip
CENTROIDS = {
    1: [0.7978845608],
    2: [0.4527800346, 1.5104176087],
    3: [0.2450941791, 0.7560052815, 1.3439092613, 2.1519457045],
    4: [0.1283950299, 0.3880482788, 0.6567589957, 0.9423403765,
        1.2562310880, 1.6180463720, 2.0690172265, 2.7325896054],
}  # fmt: skip
Floats: TypeAlias = NDArray[np.float32]
Options: TypeAlias = Mapping[str, str]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


# Random streams


def derive(seed: int, *parts: str | int) -> int:
    text = f"i{seed}" + "".join(f"|i{p}" if isinstance(p, int) else f"|s{len(p)}:{p}" for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def stream(seed: int, *parts: str | int) -> Callable[[int], bytes]:
    made = derive(seed, *parts).to_bytes(16, "little")
    start = hashlib.sha256(b"fedkit/stream/1" + made).digest()
    cipher = Cipher(algorithms.AES(start[:16]), modes.CTR(start[16:])).encryptor()
    return lambda count: cipher.update(bytes(count))


def choice(seed: int, width: int, kept: int) -> list[int]:
    drawn = np.frombuffer(stream(seed, "keep", width)(8 * width), "<u8").tolist()
    return sorted(sorted(range(width), key=drawn.__getitem__)[:kept])


def dithers(seed: int, name: str, count: int) -> NDArray[np.float64]:
    return np.frombuffer(stream(seed, name)(2 * count), "<i2") / 65536


# Reading


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def halves(self, count: int) -> Floats:
        raw = np.frombuffer(self.take(2 * count), "<u2").astype("<u4") << np.uint32(16)
        return raw.astype("<u4").view("<f4").astype(np.float32)

    def bits(self, count: int) -> list[int]:
        packed = self.take((count + 7) // 8)
        return [packed[i // 8] >> (i % 8) & 1 for i in range(count)]

    def section(self, size: int) -> bytes:
        coder = zlib.decompressobj(-15)
        made = coder.decompress(self.take(self.varint()))
        assert coder.eof
        assert len(made) == size
        return made


def gaps(data: Bytes) -> tuple[list[int], list[int]]:
    """Positions and values."""
    count = data.varint()
    if not count:
        return [], []
    raw = data.take(1)[0]
    tokens = data.section(data.varint())
    high, above, marks = [], 0, []
    for token in tokens:
        if token == 252:
            above += 63
            continue
        high.append(above + (token >> 2))
        marks.append(token & 3)
        above = 0
    extra = list(data.section(sum(mark >= 2 for mark in marks)))
    high = [h << raw for h in high]
    for bit in range(raw):
        high = [h | low << bit for h, low in zip(high, data.bits(count), strict=True)]
    sizes = iter([int.from_bytes(data.take(2), "little") if e == 255 else e + 2 for e in extra])
    values = [(next(sizes) if mark & 2 else 1) * (-1 if mark & 1 else 1) for mark in marks]
    positions, at = [], -1
    for gap in high:
        at += gap + 1
        positions.append(at)
    return positions, values


def symbols(data: Bytes, count: int, itemsize: int) -> list[int]:
    way = data.take(1)[0]
    if way == 0:
        return [int(v) for v in np.frombuffer(data.take(count * itemsize), f"<i{itemsize}")]
    made = [0] * count
    if way == 1:
        for position, value in zip(*gaps(data), strict=True):
            made[position] = value
        return made
    base, width = {2: (3, 5), 3: (5, 3), 4: (15, 2), 5: (255, 1)}[way]
    limit, length = (base - 1) // 2, -(-count // width)
    for i, byte in enumerate(data.section(length)):
        for j in range(width):
            if j * length + i < count:
                made[j * length + i] = byte // base**j % base - limit
    at_limit = [i for i, value in enumerate(made) if abs(value) == limit]
    for position, excess in zip(*gaps(data), strict=True):
        where = at_limit[position]
        made[where] += excess if made[where] > 0 else -excess
    return made


# Rotations


def walsh(block: Floats) -> Floats:
    if len(block) == 1:
        return block
    low, high = walsh(block[: len(block) // 2]), walsh(block[len(block) // 2 :])
    return np.concatenate([low + high, low - high])


class Rotation:
    def __init__(self, d: int, seed: int) -> None:
        self.block = min(4096, 2 ** (d.bit_length() - 1))
        self.head, self.d = d % self.block, d
        draw = stream(seed, "signs")

        def signs(count: int) -> Floats:
            values = Bytes(draw((count + 7) // 8)).bits(count)
            return np.array([2 * v - 1 for v in values], np.float32) / np.float32(math.sqrt(self.block))

        self.first = signs(self.block) if self.head else None
        parts = [signs(min(GROUP, d - low)) for low in range(self.head, d, GROUP)]
        self.rest = np.concatenate(parts)

    def widths(self) -> list[int]:
        return ([self.head] if self.head else []) + [self.block] * ((self.d - self.head) // self.block)

    def back(self, vector: Floats) -> Floats:
        out = vector.copy()
        for low in range(self.head, self.d, self.block):
            out[low : low + self.block] = walsh(out[low : low + self.block])
        out[self.head :] *= self.rest
        if self.first is not None:
            out[: self.block] = walsh(out[: self.block]) * self.first
        return out


# Quantizers


def blocks(d: int, size: int) -> list[int]:
    """The block of each entry."""
    return [i // size for i in range(d)]


def kept(share: str, width: int) -> int:
    return max(1, round(float(share) * width))


def ecsq(data: Bytes, d: int, seed: int, delta: float, mode: str, block: int) -> Floats:
    scales = data.halves(-(-d // block)) * np.float32(delta)
    itemsize = 1 if 1.01 * math.sqrt(block) / delta + 1 <= 127 else 2
    made = np.array(symbols(data, d, itemsize), np.float32)
    if mode == "dither":
        made -= dithers(seed, "shift", d).astype(np.float32)
    return made * scales[blocks(d, block)]


def eden(data: Bytes, d: int, seed: int, options: Options) -> Floats:
    turn, bits, share = Rotation(d, seed), int(options["bits"]), options["keep"]
    widths = turn.widths()
    scales = data.halves(len(widths))
    rows = list(zip(widths, scales, strict=True))
    groups = [rows[:1]] * bool(turn.head)
    body, per = rows[bool(turn.head) :], GROUP // turn.block
    groups += [body[i : i + per] for i in range(0, len(body), per)]
    made = []
    for group in groups:
        k = kept(share, group[0][0])
        planes = [data.bits(k * len(group)) for _ in range(bits)]
        for number, (width, scale) in enumerate(group):
            row = np.zeros(width, np.float32)
            for i, column in enumerate(choice(seed, width, k)):
                at = number * k + i
                level = sum(plane[at] << p for p, plane in enumerate(planes[1:]))
                row[column] = (2 * planes[0][at] - 1) * np.float32(CENTROIDS[bits][level]) * scale
            made.append(row)
    return turn.back(np.concatenate(made))


def positions_of(d: int, share: str) -> int:
    return min(d, kept(share, d))


def quantizer(name: str, options: Options, data: Bytes, d: int, seed: int) -> Floats:
    block = int(options.get("block", 1))
    if name == "bfloat16":
        return data.halves(d)
    if name in ("int8", "int4"):
        steps = data.halves(-(-d // block))
        raw = np.frombuffer(data.take(d), "i1") if name == "int8" else np.array(symbols(data, d, 1))
        return raw.astype(np.float32) * steps[blocks(d, block)]
    if name == "ecsq":
        return ecsq(data, d, seed, float(options["delta"]), options["mode"], block)
    if name == "qsgd":
        bucket = int(options["bucket"])
        return ecsq(data, d, seed, math.sqrt(bucket) / int(options["levels"]), "stoch", bucket)
    if name == "sign":
        scales = data.halves(-(-d // block))
        return (2 * np.array(data.bits(d), np.float32) - 1) * scales[blocks(d, block)]
    if name == "stc":
        magnitude, out = np.frombuffer(data.take(4), "<f4")[0], np.zeros(d, np.float32)
        at, values = gaps(data)
        assert len(at) == positions_of(d, options["share"])
        out[at] = np.array(values, np.float32) * magnitude
        return out
    assert name == "eden"
    return eden(data, d, seed, options)


# Transforms: (length of the next vector, how many side bytes, what undoes it)

Undo: TypeAlias = Callable[[Floats], Floats]


def transform(name: str, options: Options, data: Bytes, d: int, own: int, shared: int) -> tuple[int, Undo]:
    seed = shared if options.get("shared") == "true" else own
    if name == "clip":
        return d, lambda vector: vector
    if name == "rotate":
        return d, Rotation(d, seed).back
    if name == "topk":
        side = Bytes(data.take(data.varint()))
        at = gaps(side)[0]
        assert side.at == len(side.data)
    else:
        assert name == "sample"
        k = kept(options["keep"], d)
        drawn = np.frombuffer(stream(seed, "sample")(4 * k), "<u4").tolist()
        edges = [i * d // k for i in range(k + 1)]
        at = [edges[i] + (drawn[i] * (edges[i + 1] - edges[i]) >> 32) for i in range(k)]

    def undo(vector: Floats) -> Floats:
        out = np.zeros(d, np.float32)
        out[at] = vector
        return out

    return len(at), undo


# Whole payloads


def parse(spec: str) -> list[tuple[str, Options]]:
    stages: list[tuple[str, Options]] = []
    for stage in spec.split("|"):
        name, _, options = stage.partition(":")
        pairs = (pair.partition("=") for pair in options.split(",") if pair)
        stages.append((name.partition("/")[0], {key: value for key, _, value in pairs}))
    return stages


class Payload:
    """A payload with float32 tensors of these shapes."""

    def __init__(self, data: bytes, shapes: Shapes, own: int, shared: int) -> None:
        assert data[:3] == b"FK\x01"
        assert hashlib.sha256(data[:-16]).digest()[:16] == data[-16:]
        self.contract, self.data = data[3:11], Bytes(data[11:-16])
        self.shapes, self.own, self.shared = shapes, own, shared
        self.sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        lines = [f"{name!r} {shape} float32" for name, shape in shapes.items()]
        self.digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def made_by(self, spec: str) -> bool:
        agreed = hashlib.blake2b(f"{spec}\n{self.digest}".encode(), digest_size=8).digest()
        return agreed == self.contract

    def join(self, small: Floats, large: Floats, apart: Sequence[str]) -> Floats:
        parts, at = [], {True: 0, False: 0}
        for name, n in self.sizes.items():
            source = small if name in apart else large
            start = at[name in apart]
            parts.append(source[start : start + n])
            at[name in apart] += n
        assert self.data.at == len(self.data.data)
        return np.concatenate(parts)

    def apart(self, below: int, exempt: str) -> list[str]:
        patterns = [p for p in exempt.split("+") if p]
        return [n for n, s in self.sizes.items() if s < below or any(fnmatchcase(n, p) for p in patterns)]

    def small(self, rules: Options) -> tuple[list[str], Floats]:
        apart = self.apart(int(rules["below"]), rules["exempt"])
        count = sum(self.sizes[name] for name in apart)
        if rules["small"] == "bfloat16":
            return apart, self.data.halves(count)
        return apart, np.frombuffer(self.data.take(4 * count), "<f4")

    def pipeline(self, spec: str) -> Floats:
        assert self.made_by(spec)
        (_, rules), *stages = parse(spec)
        apart, small = self.small(rules)
        d = sum(self.sizes.values()) - len(small)
        return self.join(small, self.large(stages, d) if d else np.zeros(0, np.float32), apart)

    def large(self, stages: Sequence[tuple[str, Options]], d: int) -> Floats:
        own, shared = derive(self.own, "large"), derive(self.shared, "large")
        undo = []
        for i, (name, options) in enumerate(stages[:-1]):
            d, back = transform(name, options, self.data, d, derive(own, name, i), derive(shared, name, i))
            undo.append(back)
        e = int.from_bytes(self.data.take(1), "little", signed=True)
        name, options = stages[-1]
        vector = quantizer(name, options, self.data, d, derive(own, name)) * np.float32(2.0 ** (8 * e))
        for back in reversed(undo):
            vector = back(vector)
        return vector

    def powersgd(self, spec: str, options: Options) -> Floats:
        assert self.made_by(spec)
        rank, large = int(options["rank"]), []
        apart, small = self.small(options)
        factor = np.float32(2.0 ** (8 * int.from_bytes(self.data.take(1), "little", signed=True)))
        for name, shape in self.shapes.items():
            if name in apart:
                continue
            m = shape[0] if len(shape) > 1 else 1
            n = self.sizes[name] // m
            if 2 * rank * (m + n) < m * n:
                p = np.frombuffer(self.data.take(4 * m * rank), "<f4").reshape(m, rank)
                q = np.frombuffer(self.data.take(4 * n * rank), "<f4").reshape(n, rank)
                large.append((p @ q.T).reshape(-1) * factor)
            else:
                large.append(self.data.halves(m * n) * factor)
        return self.join(small, np.concatenate(large), apart)

    def ring(self, spec: str, options: Options, n: int = 1, scale: float = 0.0) -> Floats:
        assert self.made_by(spec)
        known = 2.0**-60 <= scale <= 2.0**60
        width, scale = (int(options["width"]), scale) if known else (32, 16.0 * n)
        reach = 4.5 * float(options["margin"])
        step = 2 * reach * scale / math.sqrt(4**width - n * reach**2 / 3)
        apart = self.apart(1024, options["exempt"])
        count = sum(self.sizes[name] for name in apart)
        d = sum(self.sizes.values()) - count
        turn, share = Rotation(d, self.shared), options.get("keep", "1")
        taken = [kept(share, w) for w in turn.widths()]
        lane = lanes(self.data, sum(taken), width)
        values = np.array(lane, np.float64) - dithers(self.own, "dither", sum(taken))
        values -= 2.0**width * np.rint(values / 2.0**width)
        rows, at = [], 0
        for w, k in zip(turn.widths(), taken, strict=True):
            row = np.zeros(w, np.float32)
            row[choice(self.shared, w, k)] = values[at : at + k] * step * w / k
            rows.append(row)
            at += k
        large = collect(turn.back(np.concatenate(rows)))
        fine = 2**8 / ((2**31 - 1) // n - 1)
        small = (np.array(lanes(self.data, count, 32)) - dithers(self.own, "small", count)) * fine
        return self.join(small.astype(np.float32), large, apart)


def lanes(data: Bytes, count: int, width: int) -> list[int]:
    per = 64 // width
    length = -(-count // per)
    made = [0] * (per * length)
    for i in range(length):
        word = int.from_bytes(data.take(8), "little")
        for lane in range(per):
            value = word & ((1 << width) - 1)
            value -= (value >> (width - 1)) << width
            made[lane * length + i] = value
            word = (word - value) >> width
    return made[:count]


def collect(dealt: Floats) -> Floats:
    d = len(dealt)
    hands = max(1, d // 4096)
    whole = d // (16 * hands) * 16 * hands
    mixed = dealt.copy()
    if whole and d > whole:
        every = whole // (d - whole)
        for i in range(d - whole):
            mixed[[i * every, whole + i]] = mixed[[whole + i, i * every]]
    out = mixed.copy()
    for run in range(whole // 16):
        hand, place = run % hands, run // hands
        start = hand * (whole // hands) + 16 * place
        out[16 * run : 16 * run + 16] = mixed[start : start + 16]
    return out


def decode(spec: str, data: bytes, shapes: Shapes, own: int, shared: int, ring: Mapping[str, Any]) -> Floats:
    if spec == "none/1":
        return np.frombuffer(data, "<f4")
    payload, (name, options) = Payload(data, shapes, own, shared), parse(spec)[0]
    if name == "powersgd":
        return payload.powersgd(spec, options)
    if name.startswith("ring-"):
        return payload.ring(spec, options, **ring)
    if name == "adaptive":
        low, high = int(options["best"]), int(options["worst"])
        rules = f"tensors/1:small={options['small']},below={options['below']},exempt={options['exempt']}|"
        (spec,) = [rules + rung for rung in RUNGS[low : high + 1] if payload.made_by(rules + rung)]
    return payload.pipeline(spec if spec.startswith("tensors") else f"{DEFAULTS}|{spec}")


SHAPES: Shapes = {tensor: (n,) for tensor, n in INDEX["layout"].items()}
GOLDEN: dict[str, tuple[str, Shapes, int]] = {}
for _name, _spec in INDEX["vectors"].items():
    GOLDEN[_name] = (_spec, SHAPES, 1)
for _name, _told in INDEX["others"].items():
    _shapes: Shapes = {tensor: tuple(shape) for tensor, shape in _told["layout"].items()}
    GOLDEN[_name] = (_told["spec"], _shapes, _told["every"])


@pytest.mark.parametrize("name", list(GOLDEN))
def test_the_page_says_enough_to_read_a_golden_payload(name: str) -> None:
    spec, shapes, every = GOLDEN[name]
    data, expected = (FOLDER / f"{name}.bin").read_bytes(), np.fromfile(FOLDER / f"{name}.f4", "<f4")
    public = {"n": INDEX["clients"], "scale": INDEX["scale"]}
    made = decode(spec, data, shapes, INDEX["seed"], INDEX["shared_seed"], public)[::every]
    assert np.abs(made - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", list(INDEX["downlink"]))
def test_and_a_golden_frame_of_the_way_down(name: str) -> None:
    data, seed = (FOLDER / f"{name}.bin").read_bytes(), derive(INDEX["seed"], "downlink", 2)
    moved = decode(INDEX["downlink"][name], data[16:], SHAPES, seed, seed, {})
    made = (np.fromfile(FOLDER / "input.f4", "<f4") + moved).astype("<f4")
    assert hashlib.blake2b(made.tobytes(), digest_size=16).digest() == data[:16]
    assert made.tobytes() == (FOLDER / f"{name}.f4").read_bytes()


MORE: list[tuple[str, dict[str, Any]]] = [
    (
        "tensors/1:small=bfloat16,below=1,exempt=o*+?b|rotate/1:shared=false|topk/1:share=0.1|int8/1:block=100",
        {},
    ),
    ("tensors/1:small=bfloat16,below=1024,exempt=|eden/1:bits=3,keep=0.4,scale=min", {}),
    ("ring-srht/1:keep=0.3,width=7,margin=2,exempt=", {"scale": 0.5, "n": 5}),
    ("ring-rotq/1:width=6,margin=1.5,exempt=out", {"scale": 0.02, "n": 3}),
    ("ring-rotq/1:width=6,margin=1.5,exempt=", {"scale": 0.0, "n": 3}),
    ("powersgd/1:rank=3,small=bfloat16,below=1024,exempt=", {}),
]


@pytest.mark.parametrize(("spec", "public"), MORE)
def test_and_larger_ones_with_heads_blocks_and_a_public_scale(spec: str, public: dict[str, Any]) -> None:
    """What 1100 entries do not show: a head before blocks of 4096, several hands, lanes of some bits."""
    from fedkit import plugins
    from fedkit.codecs import CodecContext
    from fedkit.tensors import Layout

    shapes = {"in": (50, 10, 10), "b": (20,), "out": (4100,), "tb": (40, 1)}
    layout = Layout(tuple(shapes), tuple(shapes.values()), ("float32",) * 4)
    ramp = np.linspace(-1, 1, layout.size, dtype=np.float32)
    delta, codec = layout.view((0.1 * ramp**3).astype(np.float32)), plugins.codec(spec)
    context = CodecContext(11, 12, public.get("scale", 0.0), clients=public.get("n", 1))
    data = codec.encode(delta, layout, context)
    made = decode(spec, data, shapes, 11, 12, public)
    expected = layout.flatten(codec.decode(data, layout, context))
    assert np.abs(made - expected).max() <= 1e-5 * np.abs(expected).max()


def test_example_of_the_page() -> None:
    whole = hashlib.sha256(b"i7|s5:large|i0").digest()
    assert derive(7, "large", 0) == int.from_bytes(whole[:8], "little")
