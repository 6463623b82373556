"""Golden vectors of codecs: writes those of index.json that are missing, and never touches the others.

python tests/vectors/codecs/make.py, after adding an entry for a new codec, version or way of coding.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fedkit import plugins
from fedkit.codecs import CodecContext
from fedkit.tensors import Layout

HERE = Path(__file__).parent


def main() -> None:
    """For each entry: NAME.bin, the payload of input.f4, and NAME.f4, what it decodes to."""
    index = json.loads((HERE / "index.json").read_text())
    sizes = index["layout"]
    layout = Layout(tuple(sizes), tuple((n,) for n in sizes.values()), ("float32",) * len(sizes))
    delta = layout.view(np.fromfile(HERE / "input.f4", "<f4"))
    context = CodecContext(**{name: index[name] for name in ("seed", "shared_seed", "scale", "clients")})
    for name, spec in index["vectors"].items():
        if (HERE / f"{name}.bin").exists():
            continue
        codec = plugins.codec(spec)
        payload = codec.encode(delta, layout, context)
        (HERE / f"{name}.bin").write_bytes(payload)
        layout.flatten(codec.decode(payload, layout, context)).astype("<f4").tofile(HERE / f"{name}.f4")


if __name__ == "__main__":
    main()
