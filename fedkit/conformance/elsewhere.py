"""A codec in another process: another hash seed, another process id, nothing remembered."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping

from fedkit.codecs import Codec, CodecContext
from fedkit.conformance.laws import Broken
from fedkit.tensors import Flat

_START = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); import {0}; {0}.answer()"
_SECONDS = 120


def elsewhere(codec: Codec, delta: Flat, context: CodecContext, payload: bytes) -> tuple[bytes, bytes]:
    """What `encode` makes of the delta there, and the bytes of what `decode` makes of the payload.

    Broken, saying why, if the codec cannot be told to another process or fails in it.
    """
    try:
        told = pickle.dumps((codec, delta, context, payload))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise Broken(f"it cannot be pickled: {error}") from error
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(  # noqa: S603 - this interpreter, and a script of our own
        [sys.executable, "-c", _START.format(__name__)],
        input=pickle.dumps(sys.path) + pickle.dumps(_files(codec)) + told,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise Broken(f"it fails in another process: {(done.stderr.decode().splitlines() or ['?'])[-1]}")
    made: tuple[bytes, bytes] = pickle.loads(done.stdout)  # noqa: S301
    return made


def _files(codec: Codec) -> Mapping[str, str]:
    """Modules of the codec and its stages that may be known by their file alone, as FILE.py:CLASS is."""
    parts = [codec, *getattr(codec, "stages", ())]
    names = {kind.__module__ for part in parts for kind in type(part).__mro__}
    return {n: str(file) for n in sorted(names) if (file := getattr(sys.modules.get(n), "__file__", None))}


def answer() -> None:
    """The other process: reads what it is told, writes what it makes."""
    for name, file in pickle.load(sys.stdin.buffer).items():  # noqa: S301
        _load(name, file)
    codec, delta, context, payload = pickle.load(sys.stdin.buffer)  # noqa: S301
    made = delta.layout.flatten(codec.decode(payload, delta.layout, context))
    sent = codec.encode(delta, delta.layout, context)
    sys.stdout.buffer.write(pickle.dumps((sent, made.tobytes())))


def _load(name: str, file: str) -> None:
    """The module by its name, else by its file under that name."""
    try:
        importlib.import_module(name)
    except ImportError:
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
