from collections.abc import Mapping

import numpy as np

from fedkit.messages import Pass
from fedkit.tensors import Array, Layout, Tensors
from fedkit_clients.correction import Correction

LAYOUT = Layout(("a", "b", "c", "d"), ((2,), (1, 2), (1,), (3,)), ("float64",) * 4)


def _tensors(seed: int) -> Tensors:
    return LAYOUT.view(np.random.default_rng(seed).normal(size=LAYOUT.size))


def _correct(grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
    return 2 * grad + 3 * (weight - anchor) - extra["c"]


def _calls_and_grads(anchor: Tensors, extra: Tensors) -> tuple[int, Tensors]:
    calls = []

    def counted(grad: Array, weight: Array, anchor: Array, extra: Mapping[str, Array]) -> Array:
        calls.append(grad.shape)
        return _correct(grad, weight, anchor, extra)

    grad, weight = np.array(LAYOUT.flatten(_tensors(0))), LAYOUT.flatten(_tensors(1))
    pass_ = Pass(_tensors(1), anchor, {"c": extra})
    Correction(counted, pass_, LAYOUT, grad, weight, np.asarray).apply()
    return len(calls), LAYOUT.view(grad)


def test_a_whole_anchor_takes_one_call() -> None:
    calls, grads = _calls_and_grads(_tensors(2), _tensors(3))
    assert calls == 1
    for name in LAYOUT.names:
        grad, weight, anchor = (_tensors(i)[name] for i in range(3))
        want = _correct(grad, weight, anchor, {"c": _tensors(3)[name]})
        assert grads[name].tolist() == want.tolist()


def test_order_of_the_anchors_names_is_free() -> None:
    anchor = dict(reversed(list(_tensors(2).items())))
    calls, grads = _calls_and_grads(anchor, _tensors(3))
    assert calls == 1
    assert grads["d"].tolist() == _calls_and_grads(_tensors(2), _tensors(3))[1]["d"].tolist()


def test_tensors_that_the_anchor_does_not_name_keep_their_gradient() -> None:
    anchor = {name: a for name, a in _tensors(2).items() if name != "b"}
    calls, grads = _calls_and_grads(anchor, _tensors(3))
    whole = _calls_and_grads(_tensors(2), _tensors(3))[1]
    assert calls == 2
    assert grads["b"].tolist() == _tensors(0)["b"].tolist()
    assert {n: grads[n].tolist() for n in anchor} == {n: whole[n].tolist() for n in anchor}


def test_an_empty_anchor_corrects_nothing() -> None:
    calls, grads = _calls_and_grads({}, {})
    assert calls == 0
    assert grads["a"].tolist() == _tensors(0)["a"].tolist()
