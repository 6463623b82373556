"""Golden vectors of codecs: writes those of index.json that are missing, and never touches the others.

python tests/vectors/codecs/make.py, after adding an entry for a new codec, version or way of coding.
docs/wire.md says what the files hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit import plugins
from fedkit.codecs import CodecContext
from fedkit.downlink import Downlink
from fedkit.tensors import Flat, Layout

HERE = Path(__file__).parent


def ramp(size: int) -> NDArray[np.float32]:
    """The input of entries without a file of it: exact in float32."""
    steps = (np.arange(size) * 2654435761 // 65536 % 2001) - 1000
    return (steps / 8192).astype(np.float32)


def cases(index: Mapping[str, Any]) -> Iterator[tuple[str, str, Flat, int]]:
    """(name, spec, delta, which entries of the decoded vector are kept) of each payload."""
    sizes = index["layout"]
    layout = Layout(tuple(sizes), tuple((n,) for n in sizes.values()), ("float32",) * len(sizes))
    for name, spec in index["vectors"].items():
        yield name, spec, layout.view(np.fromfile(HERE / "input.f4", "<f4")), 1
    for name, other in index["others"].items():
        shapes = other["layout"]
        layout = Layout(tuple(shapes), tuple(map(tuple, shapes.values())), ("float32",) * len(shapes))
        yield name, other["spec"], layout.view(ramp(layout.size)), other["every"]


def main() -> None:
    """For each entry: NAME.bin, the payload or frame, and NAME.f4, what it decodes to."""
    index = json.loads((HERE / "index.json").read_text())
    context = CodecContext(**{name: index[name] for name in ("seed", "shared_seed", "scale", "clients")})
    base = next(cases(index))[2]
    for name, spec, delta, every in cases(index):
        if not (HERE / f"{name}.bin").exists():
            codec = plugins.codec(spec)
            payload = codec.encode(delta, delta.layout, context)
            decoded = delta.layout.flatten(codec.decode(payload, delta.layout, context))
            write(name, payload, decoded[::every])
    for name, spec in index["downlink"].items():
        if not (HERE / f"{name}.bin").exists():
            downlink = Downlink(plugins.codec(spec), base.layout, index["seed"])
            downlink.publish(base)
            release = downlink.publish(base.layout.view(base.vector + ramp(base.vector.size)))
            write(name, release.frame or b"", base.layout.flatten(release.model))


def write(name: str, payload: bytes, decoded: NDArray[np.float32]) -> None:
    (HERE / f"{name}.bin").write_bytes(payload)
    decoded.astype("<f4").tofile(HERE / f"{name}.f4")


if __name__ == "__main__":
    main()
