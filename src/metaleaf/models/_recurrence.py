"""An LSTM layer for second derivatives, which torch's has only as some ten thousand small operators.

Reverse mode is written out twice, as sweeps over time with one product with the recurrent weights a step; all other
products are over the whole sequence. In torch's order of the gates (i, f, g, o):

- `_Recurrence`, forwards: the gates' inputs z, the cells c and the states h,

      z_t = p_t + R h_{t-1},   c_t = f_t c_{t-1} + i_t g_t,   h_t = o_t tanh(c_t);

- `_Backward`, backwards: d_t, the gradient by z_t, from the gradients a_t by h_t (Werbos 1990),

      dh_t = a_t + R' d_{t+1},   dc_t = o_t (1 - tanh(c_t)^2) dh_t + f_{t+1} dc_{t+1},
      d_t = (g_t i_t' dc_t,  c_{t-1} f_t' dc_t,  i_t g_t' dc_t,  tanh(c_t) o_t' dh_t),

  with i' = i (1 - i), f' and o' likewise, g' = 1 - g^2;

- the derivative of `_Backward`, forwards again: from the gradients by d, those by a, z and c. By a it is the recurrence
  linearised (Pearlmutter 1994). Those by z and c then join what comes by h, in one more sweep like `_Backward`'s.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Gates = tuple[Tensor, ...]
"""One step's parts of i, f, g and o, [n, hidden] each."""


def recurrence(p: Tensor, recurrent: Tensor) -> Tensor:
    """All states [steps, n, hidden] of a layer that starts at zero; differentiable twice, and not more often.

    p [steps, n, 4 * hidden]: the gates' inputs but for the recurrent part. recurrent: torch's weight_hh.
    """
    h, _, _ = _Recurrence.apply(p, recurrent)  # type: ignore[no-untyped-call]
    states: Tensor = h
    return states


class _Kept(NamedTuple):
    """What the first sweep leaves for the others: [steps, n, hidden], of gates side by side [steps, n, 4 * hidden]."""

    gates: Tensor
    slopes: Tensor
    """Of dc_t (i, f, g) and dh_t (o) in d_t."""
    leak: Tensor
    """Of dh_t in dc_t."""
    bent: Tensor
    """tanh(c)."""


class _Recurrence(torch.autograd.Function):
    """`recurrence`, and two tensors that stand for z and c in the graph: `_Backward` gives them their gradients."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        h, c, ctx.kept = _states(p, recurrent)
        z = ctx.kept.gates.detach()  # an output that ctx holds would keep itself alive
        ctx.save_for_backward(recurrent, h, z, c)
        return h, z, c

    @staticmethod
    def backward(ctx: Any, by_h: Tensor | None, by_z: Tensor | None, by_c: Tensor | None) -> Any:
        recurrent, h, z, c = ctx.saved_tensors
        by_h = torch.zeros_like(h) if by_h is None else by_h
        if by_z is None or by_c is None:
            return _Backward.apply(by_h, recurrent, h, z, c, ctx.kept)  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled():
            raise NotImplementedError("metaleaf.models.lstm has no third derivatives: use torch.nn.LSTM for them.")
        d, _, _ = _gradients(by_h, recurrent, ctx.kept, by_z, by_c)
        return d, _outer(d, h)


class _Backward(torch.autograd.Function):
    """The gradients by p (d) and by the recurrent weights."""

    @staticmethod
    def forward(
        ctx: Any, by_h: Tensor, recurrent: Tensor, h: Tensor, z: Tensor, c: Tensor, kept: _Kept
    ) -> tuple[Tensor, Tensor]:
        d, ctx.dc, ctx.dh = _gradients(by_h, recurrent, kept)
        ctx.kept = kept
        ctx.save_for_backward(recurrent, h, d)
        return d, _outer(d, h)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_d: Tensor, by_outer: Tensor) -> Any:
        recurrent, h, d = ctx.saved_tensors
        u, by_h = torch.empty_like(d), torch.empty_like(h)
        u[0], by_h[-1] = by_d[0], 0
        torch.addmm(_rows(by_d[1:]), _rows(h[:-1]), by_outer.t(), out=_rows(u[1:]))
        torch.mm(_rows(d[1:]), by_outer, out=_rows(by_h[:-1]))
        tangent, by_z, by_c = _tangents(u, recurrent, ctx.kept, d, ctx.dc, ctx.dh)
        return tangent, _outer(d, tangent), by_h, by_z, by_c, None


def _states(p: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor, _Kept]:
    """H and c [steps, n, hidden]."""
    z, slopes = torch.empty_like(p), torch.empty_like(p)
    h, c, leak, bent = (p.new_empty(*p.shape[:2], recurrent.shape[1]) for _ in range(4))
    carried, weights, before = torch.zeros_like(c[0]), recurrent.t(), h[:0]
    sweep = zip(p, z, _by_gate(z), _by_gate(slopes), h, c, leak, bent, strict=True)
    for p_t, z_t, gates, slopes_t, h_t, c_t, leak_t, bent_t in sweep:
        if len(before):
            torch.addmm(p_t, before, weights, out=z_t)
        else:
            z_t.copy_(p_t)
        _cell(gates, carried, slopes_t, h_t, c_t, leak_t, bent_t)
        before = h_t
    return h, c, _Kept(z, slopes, leak, bent)


def _cell(gates: Gates, carried: Tensor, slopes: Gates, h: Tensor, c: Tensor, leak: Tensor, bent: Tensor) -> None:
    """Fills in one step; gates are z and carried is c_{t-1} before, the gates' values and c after."""
    i, f, g, o = gates
    i.sigmoid_()
    f.sigmoid_()
    g.tanh_()
    o.sigmoid_()
    carried *= f
    torch.addcmul(carried, carried, f, value=-1, out=slopes[1])
    torch.mul(i, g, out=c)
    torch.addcmul(c, c, i, value=-1, out=slopes[0])
    torch.addcmul(i, c, g, value=-1, out=slopes[2])
    c += carried
    carried.copy_(c)
    torch.tanh(c, out=bent)
    torch.mul(o, bent, out=h)
    torch.addcmul(h, h, o, value=-1, out=slopes[3])
    torch.addcmul(o, h, bent, value=-1, out=leak)


def _gradients(
    by_h: Tensor, recurrent: Tensor, kept: _Kept, by_z: Tensor | None = None, by_c: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """d [steps, n, 4 * hidden], dc and dh [steps, n, hidden]."""
    d, dc, dh = torch.empty_like(kept.slopes), torch.empty_like(kept.leak), torch.empty_like(kept.leak)
    each_d, each_dc, slopes, gates = d.unbind(), dc.unbind(), _by_gate(kept.slopes), _by_gate(kept.gates)
    parts, leak, by = _by_gate(d), kept.leak.unbind(), by_h.unbind()
    owed = None if by_z is None or by_c is None else list(zip(_by_gate(by_z), by_c, strict=True))
    for t, dh_t in reversed(list(enumerate(dh))):
        if t + 1 < len(d):
            torch.addmm(by[t], each_d[t + 1], recurrent, out=dh_t)
            torch.mul(each_dc[t + 1], gates[t + 1][1], out=each_dc[t])
            each_dc[t].addcmul_(dh_t, leak[t])
        else:
            dh_t.copy_(by[t])
            torch.mul(dh_t, leak[t], out=each_dc[t])
        if owed is None:
            _local(parts[t], slopes[t], each_dc[t], dh_t)
        else:
            _local_and(owed[t], parts[t], slopes[t], each_dc[t], dh_t)
    return d, dc, dh


def _local(d: Gates, slopes: Gates, dc: Tensor, dh: Tensor) -> None:
    """Fills in d of one step."""
    for part, slope, by in zip(d, slopes, (dc, dc, dc, dh), strict=True):
        torch.mul(slope, by, out=part)


def _local_and(owed: tuple[Gates, Tensor], d: Gates, slopes: Gates, dc: Tensor, dh: Tensor) -> None:
    """The same, and adds what else is owed to z and c."""
    by_z, by_c = owed
    dc += by_c
    for part, more, slope, by in zip(d, by_z, slopes, (dc, dc, dc, dh), strict=True):
        torch.addcmul(more, slope, by, out=part)


def _tangents(
    u: Tensor, recurrent: Tensor, kept: _Kept, d: Tensor, dc: Tensor, dh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by a, z and c, from those by d: u [steps, n, 4 * hidden], which the sweep changes."""
    by_a, by_z, by_c = torch.empty_like(dh), torch.empty_like(d), dc.new_zeros(len(dc) + 1, *dc.shape[1:])
    tangent, products, weights = torch.zeros_like(dc[0]), torch.empty_like(d[0]), recurrent.t()
    each_a, each_c = by_a.unbind(), by_c.unbind()  # each_c starts with the cells before the first step
    whole = zip(u, d, kept.gates, by_z, strict=True)
    parts = zip(*map(_by_gate, (u, d, kept.slopes, kept.gates, by_z)), strict=True)
    others = zip(dc, dh, kept.leak, kept.bent, strict=True)
    for t, (u_t, d_t, z_t, by_z_t) in enumerate(whole):
        (u_gates, d_gates, slopes, gates, by_gates), (dc_t, dh_t, leak, bent) = next(parts), next(others)
        if t:
            u_t.addmm_(each_a[t - 1], weights)
        # What d_t has from the slope s (1 - s) of a gate s itself; for tanh a remainder follows.
        torch.mul(u_t, d_t, out=products)
        torch.addcmul(products, products, z_t, value=-2, out=by_z_t)
        _forgetting(u_gates, gates, dc_t, tangent, by_gates, each_c[t])
        _tangent(u_gates, slopes, gates, leak, tangent, each_a[t])
        _input(u_gates, d_gates, gates, products, by_gates)
        _output(u_gates, gates, bent, dh_t * leak, tangent, by_gates, each_c[t + 1])
    return by_a, by_z, by_c[1:]


def _forgetting(u: Gates, gates: Gates, dc: Tensor, tangent: Tensor, by_z: Gates, by_c: Tensor) -> None:
    """What f_t leads from c_{t-1} on; the tangent and by_c are of that one."""
    f = gates[1]
    slope = torch.addcmul(f, f, f, value=-1).mul_(dc)
    by_z[1].addcmul_(slope, tangent)
    by_c.addcmul_(slope, u[1])


def _tangent(u: Gates, slopes: Gates, gates: Gates, leak: Tensor, tangent: Tensor, by_a: Tensor) -> None:
    """The linearised step: the cell's tangent in place, the state's in by_a."""
    tangent *= gates[1]
    for part, slope in zip(u[:3], slopes, strict=False):
        tangent.addcmul_(part, slope)
    torch.mul(u[3], slopes[3], out=by_a)
    by_a.addcmul_(leak, tangent)


def _input(u: Gates, d: Gates, gates: Gates, products: Tensor, by_z: Gates) -> None:
    """The slopes of i and g contain each other's gate."""
    i, product = gates[0], products.chunk(4, 1)[2]
    by_z[0].add_(product).addcmul_(product, i, value=-1)
    crossed = u[0] * d[2]
    by_z[2].sub_(product).add_(crossed).addcmul_(crossed, i, value=-1)


def _output(u: Gates, gates: Gates, bent: Tensor, by_cell: Tensor, tangent: Tensor, by_z: Gates, by_c: Tensor) -> None:
    """What o and c have to do with each other; by_cell: what comes to dc by h, lost."""
    o = gates[3]
    torch.mul(by_cell, u[3], out=by_c)
    by_c.addcmul_(by_c, o, value=-1)
    by_cell *= tangent
    by_c.addcmul_(by_cell, bent, value=-2)
    by_z[3].add_(by_cell).addcmul_(by_cell, o, value=-1)


def _by_gate(x: Tensor) -> list[Gates]:
    """Every step of x [steps, n, 4 * hidden] by gate."""
    return list(zip(*(part.unbind() for part in x.chunk(4, 2)), strict=True))


def _rows(x: Tensor) -> Tensor:
    """X [steps, n, width] as [steps * n, width]."""
    return x.flatten(0, 1)


def _outer(d: Tensor, h: Tensor) -> Tensor:
    """The gradient by the recurrent weights: the sum of d_t h_{t-1}' over steps and rows."""
    return _rows(d[1:]).t() @ _rows(h[:-1])
