"""A torch module made resident: all that trains lies in flat tensors, loaded and read in one copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkit.errors import ConfigError
from fedkit.tensors import Flat, Layout, Tensors


@dataclass(frozen=True)
class Slab:
    """Neighbouring tensors of one dtype in one flat tensor, of which the module holds views.

    layout: names and shapes, in the exported dtype. grad is None for buffers.
    """

    layout: Layout
    start: int
    flat: Tensor
    grad: Tensor | None

    def part(self, vector: Tensor) -> Tensor:
        """The slab's share of a vector of the resident module's layout."""
        size = self.flat.shape[0]
        return vector if len(vector) == size else vector[self.start : self.start + size]


class Resident:
    """One module for all clients.

    layout: what local training changes: trainable parameters, then persistent floating buffers,
    under their state_dict names (tied parameters once, under the first). Half precision is exported
    as float32. fixed: frozen parameters and integer buffers, as they were when the module came.
    params: the trainable parameters. norms_batches: whether a training batch of one example is an error.
    Buffers outside the layout return to their first value at each `load`.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_meta:
                raise ConfigError(
                    f"{name!r} is on device 'meta', where it holds no numbers: make it on 'cpu'"
                )
        self.module = module.to(device)
        self.device = device
        params = dict(module.named_parameters())
        for name, param in params.items():
            _supported(name, param)
        saved = module.state_dict().keys()
        self._buffers = [_Buffer.of(module, name) for name, _ in module.named_buffers()]
        statistics = {
            b.name: b.tensor for b in self._buffers if b.tensor.is_floating_point() and b.name in saved
        }
        trained = {name: param for name, param in params.items() if param.requires_grad}
        if not trained:
            raise ConfigError("the module has no parameter that requires a gradient: nothing would train")
        frozen = {name: param for name, param in params.items() if not param.requires_grad}
        self.frozen = tuple(frozen)
        self.dtype = next(iter(trained.values())).dtype
        wide = any(t.dtype == torch.float64 for t in (*trained.values(), *statistics.values()))
        self._export = torch.float64 if wide else torch.float32
        self.trained = _slabs(trained, 0, self._export)
        self.params = list(trained.values())
        self._grads = [param.grad for param in self.params]
        size = sum(slab.layout.size for slab in self.trained)
        self._slabs = [*self.trained, *_slabs(statistics, size, self._export)]
        self.layout = _join([slab.layout for slab in self._slabs])
        self._reset = [(b.tensor, b.tensor.clone()) for b in self._buffers if b.name not in statistics]
        integers = {b.name: b.tensor for b in self._buffers if b.name in saved and b.name not in statistics}
        self._fixed = {**frozen, **integers}
        self.fixed = {name: _numpy(tensor) for name, tensor in self._fixed.items()}
        self._always_eval = [m for m in module.modules() if module.training and not m.training]
        still = {id(m) for m in self._always_eval}
        self.norms_batches = any(
            isinstance(m, nn.BatchNorm1d) and id(m) not in still for m in module.modules()
        )
        self._training = module.training

    def hold_gradients(self) -> None:
        """Let backward add to the slabs' gradients, which are views of one tensor."""
        for param, grad in zip(self.params, self._grads, strict=True):
            param.grad = grad

    def load(self, model: Tensors) -> Tensor:
        """Set what `layout` names, put all other buffers back; the vector that was loaded.

        Raises LayoutError on other names or shapes.
        """
        vector = as_tensor(self.layout.flatten(model))
        self._own_buffers()
        for slab in self._slabs:
            slab.flat.copy_(slab.part(vector))
        for tensor, first in self._reset:
            tensor.copy_(first)
        return vector

    def read(self) -> Flat:
        """A copy of what `layout` names."""
        return self.change(torch.zeros(self.layout.size, dtype=self._export))

    def change(self, start: Tensor) -> Flat:
        """What `layout` names, less `start`: exactly 0 where nothing moved.

        `start` is rounded to the module's own precision first, as `load` did.
        """
        self._own_buffers()
        parts = [self._moved(slab, slab.part(start)) for slab in self._slabs]
        return self.layout.view((parts[0] if len(parts) == 1 else torch.cat(parts)).numpy())

    def _moved(self, slab: Slab, start: Tensor) -> Tensor:
        if slab.flat.is_cpu and slab.flat.dtype == self._export:
            return slab.flat - start
        return slab.flat.to("cpu", self._export) - start.to(slab.flat.dtype).to(self._export)

    @contextmanager
    def evaluating(self, model: Tensors) -> Iterator[nn.Module]:
        """The module in evaluation mode with `model`, whose frozen and integer tensors may be missing."""
        own = {name: model[name] for name in self._fixed if name in model}
        self.load({name: array for name, array in model.items() if name not in own} if own else model)
        try:
            self._set_fixed(own)
            self.mode(training=False)
            with torch.no_grad():
                yield self.module
        finally:
            self._set_fixed({name: self.fixed[name] for name in own})

    def mode(self, *, training: bool) -> None:
        """Switch the module; what a module in training mode came with in evaluation mode stays so."""
        if self._training == training:
            return
        self.module.train(training)
        for part in self._always_eval:
            part.eval()
        self._training = training

    def copy(self) -> nn.Module:
        """The module as it stands, independent of this one."""
        module = copy.deepcopy(self.module)
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.clone()
        return module

    def _set_fixed(self, model: Tensors) -> None:
        for name, array in model.items():
            self._fixed[name].data.copy_(as_tensor(array))

    def _own_buffers(self) -> None:
        """Take back the buffers that the module replaced instead of writing into them."""
        for buffer in self._buffers:
            buffer.take_back()


@dataclass(frozen=True)
class _Buffer:
    """A buffer and where the module holds it."""

    name: str
    owner: nn.Module
    key: str
    tensor: Tensor

    @classmethod
    def of(cls, module: nn.Module, name: str) -> _Buffer:
        path, _, key = name.rpartition(".")
        owner = module.get_submodule(path)
        return cls(name, owner, key, owner.get_buffer(key))

    def take_back(self) -> None:
        current = self.owner._buffers[self.key]
        if current is self.tensor:
            return
        if current is not None:
            self.tensor.copy_(current)
        self.owner._buffers[self.key] = self.tensor


def as_tensor(array: NDArray[Any] | Tensor) -> Tensor:
    """`array` as a tensor; shared memory unless it is read-only, which torch cannot express."""
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _numpy(tensor: Tensor) -> NDArray[Any]:
    """A copy for export; half precision becomes float32."""
    half = tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64)
    array: NDArray[Any] = tensor.detach().to("cpu", torch.float32 if half else tensor.dtype).numpy().copy()
    return array


def _supported(name: str, param: nn.Parameter) -> None:
    """ConfigError for a parameter that cannot lie in a flat tensor."""
    if isinstance(param, nn.UninitializedParameter):
        raise ConfigError(f"parameter {name!r} has no shape yet: run one batch through the module first")
    if not param.is_floating_point():
        raise ConfigError(f"parameter {name!r} is {param.dtype}: only real floating parameters can train")


def _slabs(tensors: Mapping[str, Tensor], start: int, export: torch.dtype) -> list[Slab]:
    """Move `tensors` into flat ones, one per dtype; those that require gradients get theirs set."""
    slabs = []
    by_dtype = sorted(tensors, key=lambda name: str(tensors[name].dtype))
    for dtype, names in groupby(by_dtype, lambda name: tensors[name].dtype):
        part = {name: tensors[name] for name in names}
        slabs.append(_slab(part, dtype, start, export))
        start += slabs[-1].layout.size
    return slabs


def _slab(tensors: Mapping[str, Tensor], dtype: torch.dtype, start: int, export: torch.dtype) -> Slab:
    exported = str(export).removeprefix("torch.")
    shapes = tuple(tuple(t.shape) for t in tensors.values())
    layout = Layout(tuple(tensors), shapes, (exported,) * len(shapes))
    first = next(iter(tensors.values()))
    flat = torch.zeros(layout.size, dtype=dtype, device=first.device)
    grad = torch.zeros_like(flat) if first.requires_grad else None
    for tensor, offset, size in zip(tensors.values(), layout.offsets, layout.sizes, strict=True):
        view = flat[offset : offset + size].view(tensor.shape)
        view.copy_(tensor.data)
        tensor.data = view
        if grad is not None:
            tensor.grad = grad[offset : offset + size].view(tensor.shape)
    return Slab(layout, start, flat, grad)


def _join(layouts: list[Layout]) -> Layout:
    return Layout(
        tuple(name for lay in layouts for name in lay.names),
        tuple(shape for lay in layouts for shape in lay.shapes),
        tuple(np.dtype(d).name for lay in layouts for d in lay.dtypes),
    )
