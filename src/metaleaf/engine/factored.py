"""Weights of big dense layers that keep what was added to them as thin factors, and never become a matrix of their own.

A dense layer y = x W' has, for n examples, the gradient G'X by its weights: X [n, in] are its inputs and G [n, out] the
loss's gradient by its outputs. So what gradient descent makes of shared weights B is a low-rank correction,

    W = sum_j b_j B_j + sum_i a_i G_i' X_i,

and a client never has to own (out x in) numbers, nor read and write them in every step: the layer is one product with
the shared B and two thin ones, y = x B' + a (x X') G. `Factored` is a tensor of that form. It knows addition,
subtraction and scaling by a number, so plain tree arithmetic keeps it thin; whatever else is done with it reads the
matrix, which is then made, and which it is from then on. (Added to an ordinary matrix, it becomes a single B.) It pays
while the rows of all factors are fewer than `break_even`, after which they are summed into a B of their own.

What is read is what ordinary arithmetic would make of the gradients' matrices, bit for bit: each gradient has one, and
a sum or multiple is made of the matrices of what it is a sum or multiple of (`Origin`), not of its thin factors. For
these round differently: where rows cancel, g and 0.1 g, each summed from its own factors, may differ in sign, and a
rule that reads both (Adam's second moment has 0.001 g g) be negative where it cannot be. Only what nobody has read is
summed from all factors in one product: what a client sends, and what has come to `break_even`.

Gradients (`metaleaf.gradient`) come back in the same form. A variable notes what went in and came out wherever it was
multiplied with; autograd's gradients by what came out are the G. Backward passes multiply with the weights, too (the
gradient by x is G W), so for second derivatives these products are noted just the same, the other way round. Where the
weights were made into a matrix, that is noted, and autograd's gradient by it comes as it is. All of it is exact, up to
the order of float sums.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import DisableTorchFunctionSubclass

from metaleaf.engine.lockstep import product
from metaleaf.gradient import Combine, Form
from metaleaf.trees import Tree, leaves, tree_map

LEAST_ROWS = 100
"""Layers that break even at fewer rows are left alone: their matrices are small."""
MOST_MATRICES = 4
"""Shared matrices in one sum (SCAFFOLD has three); more are added up."""

Number = float | Tensor


class Thin(NamedTuple):
    """The product G'X: g [n, out], x [n, in]."""

    g: Tensor
    x: Tensor


class Unsupported(RuntimeError):
    """What cannot be done with factored weights; the engine then runs the client with ordinary ones."""


class Use(NamedTuple):
    """One product with weights that are `scale` times the variable: y = x W', or backwards y = x W."""

    scale: Number
    x: Tensor
    y: Tensor
    backwards: bool
    version: int
    """Of x: how often it had been changed in place."""

    def gradient(self, by_y: Tensor, differentiable: bool) -> "Term":
        """The variable's gradient, from the gradient by y."""
        if self.x._version != self.version:
            raise Unsupported("the input of a dense layer was changed in place before its gradient was taken.")
        x, scale = (self.x, self.scale) if differentiable else (self.x.detach(), _constant(self.scale))
        return Term(scale, Thin(x, by_y) if self.backwards else Thin(by_y, x))


class Whole(NamedTuple):
    """An ordinary matrix that was made of weights that are `scale` times the variable, plus other things."""

    scale: Number
    y: Tensor

    def gradient(self, by_y: Tensor, differentiable: bool) -> "Term":
        """The variable's gradient, from the gradient by the matrix."""
        return Term(self.scale if differentiable else _constant(self.scale), by_y)


class Variable:
    """Where a gradient is taken: collects the uses of weights that contain it, until that gradient is known."""

    def __init__(self) -> None:
        self.uses: list[Use | Whole] = []
        self.open = True

    def note(self, use: Use | Whole) -> None:
        """Backward passes go on using weights whose gradient is known; and who kept these uses would keep graphs."""
        if self.open:
            self.uses.append(use)

    def close(self) -> list[Use | Whole]:
        """All that was collected; nothing is any more."""
        found, self.uses, self.open = self.uses, [], False
        return found


class Term(NamedTuple):
    """A number times a matrix, a product or a variable."""

    scale: Number
    of: Any


Terms = tuple[Term, ...]


class Origin(NamedTuple):
    """How weights were made: the rule makes their matrix of those of the parts."""

    rule: Callable[..., Tensor]
    parts: tuple["Factored", ...]


class Factored(Form):
    """A matrix [out, in] as a sum of shared matrices, thin products and, while a gradient is taken, variables.

    origin: None if it was not made of others, or has been read.
    """

    matrices: Terms
    thin: Terms
    variables: Terms
    origin: Origin | None
    was_read: bool

    @staticmethod
    def __new__(
        cls, like: Tensor, matrices: Terms = (), thin: Terms = (), variables: Terms = (), origin: Origin | None = None
    ) -> "Factored":
        """A tensor of the shape, type and device of `like`, whose values it does not have."""
        with DisableTorchFunctionSubclass():
            made: Factored = torch.Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype, device=like.device)
        made.matrices, made.thin, made.variables, made.origin = matrices, thin, variables, origin
        made.was_read = False
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Arithmetic that keeps the form; facts such as the shape; and everything else on a matrix made for it."""
        kwargs = kwargs or {}
        if func in _RULES and kwargs.keys() <= {"alpha", "value", "bias"}:
            kept = _RULES[func](*args, **kwargs)
            if kept is not NotImplemented:
                return kept if torch.is_grad_enabled() or not isinstance(kept, Factored) else _detached(kept)
        if func in _FACTS:
            with DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if (_writes(func) and args and isinstance(args[0], Factored)) or isinstance(kwargs.get("out"), Factored):
            raise Unsupported(f"{func.__name__} would change factored weights in place: change a clone() of them.")
        return func(*_read(tuple(args)), **_read(kwargs))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """For what goes round `__torch_function__`, such as torch.func's transformations of them."""
        raise Unsupported(f"{func} does not know factored weights: take gradients with metaleaf.gradient.grad.")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """What it is made of."""
        return f"Factored({tuple(self.shape)}, matrices={len(self.matrices)}, rows={self.rows()})"

    def rows(self) -> int:
        """Rows of all thin factors."""
        return sum(len(term.of.x) for term in self.thin)

    def matrix(self, own: bool = True) -> Tensor:
        """The weights as an ordinary tensor [out, in], which they are from now on; a gradient through it is found, too.

        own: nobody else's; otherwise it is only to be read.
        """
        whole = self.whole()
        variables = [term for term in self.variables if term.of.open] if torch.is_grad_enabled() else []
        if variables:
            # Gradients are taken by this use alone: what else the matrix is used for has uses of its own.
            whole = whole.view_as(whole) if whole.requires_grad else whole.detach().requires_grad_()
            for scale, variable in variables:
                variable.note(Whole(scale, whole))
        return whole.clone() if own else whole.view_as(whole)

    def whole(self) -> Tensor:
        """The matrix of all but the variables, made when it is first asked for; never to be changed."""
        waiting = [self]  # a stack of our own: long training makes longer chains than Python's would hold
        while waiting:
            missing = [part for part in reversed(waiting[-1].parts) if not part._is_whole]
            waiting += missing
            if not missing:
                waiting.pop()._make_whole()
        return self.matrices[0].of  # type: ignore[no-any-return]

    @property
    def parts(self) -> tuple["Factored", ...]:
        """What they were made of."""
        return self.origin.parts if self.origin else ()

    @property
    def _is_whole(self) -> bool:
        return self.origin is None and not self.thin and len(self.matrices) == 1 and _is_one(self.matrices[0].scale)

    def _make_whole(self) -> None:
        """Become a single matrix, what it was made of being so already."""
        if self._is_whole:
            return
        with torch.enable_grad():  # or a later reader's gradients would end here
            matrices = [part.matrices[0].of for part in self.parts]
            whole = self.origin.rule(*matrices) if self.origin else self._sum()
        self.matrices, self.thin, self.origin, self.was_read = (Term(1.0, whole),), (), None, True

    def total(self, own: bool = True) -> Tensor:
        """The same where only sums are made: in one product, unless a matrix has been made of anything in it."""
        whole = self.whole() if any(weights.was_read for weights in self._ancestors()) else self._sum()
        return whole.clone() if own and any(whole is term.of for term in self.matrices) else whole

    def _ancestors(self) -> Iterator["Factored"]:
        """All that it was made of, and itself."""
        seen, waiting = {id(self)}, [self]
        while waiting:
            weights = waiting.pop()
            yield weights
            new = [part for part in weights.parts if id(part) not in seen]
            seen |= {id(part) for part in new}
            waiting += new

    def _sum(self) -> Tensor:
        """Of all terms but the variables; if there is only one matrix in it, that one itself."""
        whole: Tensor | None = None
        for scale, matrix in self.matrices:
            whole = _plus(whole, matrix, scale)
        if self.thin:
            g, x = self.factors()
            return g.T @ x if whole is None else torch.addmm(whole, g.T, x)
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device) if whole is None else whole

    def factors(self) -> Thin:
        """All thin products as one, the numbers in g."""
        g = [term.of.g if _is_one(term.scale) else term.scale * term.of.g for term in self.thin]
        x = [term.of.x for term in self.thin]
        return Thin(torch.cat(g), torch.cat(x)) if len(x) > 1 else Thin(g[0], x[0])

    def as_variable(self) -> "Factored":
        """The same with a new variable in it, which is its last."""
        variables = (*self.variables, Term(1.0, Variable()))
        return Factored(self, self.matrices, self.thin, variables, Origin(lambda matrix: matrix, (self,)))

    def close(self) -> tuple[list[Tensor], Combine]:
        """What was computed with its last variable, and the gradient in this form."""
        uses = self.variables[-1].of.close()
        return [use.y for use in uses], partial(_gradient, self, uses)


def _gradient(
    like: Factored, uses: Sequence[Use | Whole], found: Sequence[Tensor | None], differentiable: bool
) -> Factored:
    terms = [use.gradient(by_y, differentiable) for use, by_y in zip(uses, found, strict=True) if by_y is not None]
    thin = tuple(term for term in terms if isinstance(term.of, Thin))
    matrices = tuple(term for term in terms if not isinstance(term.of, Thin))
    return Factored(like, matrices, thin)


def lift(tree: Tree, shapes: Iterable[tuple[int, int]]) -> Tree:
    """The tree with its leaves of those shapes as `Factored`."""
    wanted = set(shapes)

    def lifted(leaf: Any) -> Any:
        fits = tuple(leaf.shape) in wanted and leaf.is_floating_point()
        return Factored(leaf, (Term(1.0, leaf),)) if fits else leaf

    return tree_map(lifted, tree) if wanted else tree


def shared_matrices(tree: Tree) -> list[Tensor]:
    """The matrices that the tree's factored weights are made of."""
    return [term.of for leaf in leaves(tree) if isinstance(leaf, Factored) for term in leaf.matrices]


def dense(tree: Tree) -> Tree:
    """The tree with ordinary tensors only, when a client has done its work."""
    return tree_map(lambda leaf: leaf.total() if isinstance(leaf, Factored) else leaf, tree)


def _read(tree: Tree) -> Tree:
    return tree_map(lambda leaf: leaf.matrix() if isinstance(leaf, Factored) else leaf, tree)


def big_layers(model: nn.Module) -> set[tuple[int, int]]:
    """Shapes [out, in] of the model's dense layers that are worth it."""
    shapes = {tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)}
    return {(out, inner) for out, inner in shapes if break_even(out, inner) >= LEAST_ROWS}


def break_even(out: int, inner: int) -> int:
    """Rows at which thin factors are as large as the matrix."""
    return out * inner // (out + inner)


# ---- arithmetic


class _Product(torch.autograd.Function):
    """x W' (or x W) with constant matrices: its derivative by x is again such a product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Factored, backwards: bool) -> Tensor:
        ctx.weight, ctx.backwards = weight, backwards
        parts = [(scale, product(x, matrix, backwards)) for scale, matrix in weight.matrices]
        scaled = [part if _is_one(scale) else scale * part for scale, part in parts]
        width = weight.shape[1] if backwards else weight.shape[0]
        return sum(scaled[1:], start=scaled[0]) if scaled else x.new_zeros(len(x), width)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _product(gradient, ctx.weight, not ctx.backwards), None, None


def _product(x: Tensor, weight: Factored, backwards: bool) -> Tensor:
    """x W' (or x W) for weights without thin factors, noted by the variables in them."""
    y: Tensor = _Product.apply(x, weight, backwards)  # type: ignore[no-untyped-call]
    variables = [term for term in weight.variables if term.of.open] if torch.is_grad_enabled() else []
    if not variables:
        return y
    y = y if y.requires_grad else y.requires_grad_()
    for scale, variable in variables:
        variable.note(Use(scale, x, y, backwards, x._version))
    return y.clone()  # what is noted must not change if the model goes on with it in place


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if not isinstance(weight, Factored) or isinstance(x, Factored):
        return NotImplemented
    if torch._C._are_functorch_transforms_active():
        raise Unsupported("torch.func does not know factored weights.")
    rows = x.reshape(-1, x.shape[-1])
    constant = tuple(term for term in weight.matrices if not _differentiable(term))
    y = _product(rows, Factored(weight, constant, (), weight.variables), backwards=False)
    for scale, matrix in (term for term in weight.matrices if _differentiable(term)):
        y = y + scale * F.linear(rows, matrix)
    if weight.thin:
        g, inputs = weight.factors()
        y = torch.addmm(y, rows @ inputs.T, g)
    if bias is not None:
        y = y + bias
    return y.reshape(*x.shape[:-1], weight.shape[0])


def _differentiable(parts: Iterable[Any]) -> bool:
    return any(isinstance(part, Tensor) and part.requires_grad for part in parts)


def _plus(whole: Tensor | None, matrix: Tensor, scale: Number) -> Tensor:
    """Whole + scale * matrix, in one pass over the memory."""
    if whole is None:
        return matrix if _is_one(scale) else scale * matrix
    if isinstance(scale, Tensor):
        return torch.addcmul(whole, matrix, scale.to(matrix.dtype))
    return torch.add(whole, matrix, alpha=scale)


def _sum(a: Any, b: Any, scale: Number) -> Any:
    """A + scale * b of factored weights and such or an ordinary matrix."""
    like = a if isinstance(a, Factored) else b
    known = {id(term.of) for term in like.matrices}
    foreign = any(not isinstance(value, Factored) and id(value) not in known for value in (a, b))
    a, b = _as_factored(a, like), _as_factored(b, like)
    if a is None or b is None:
        return NotImplemented
    if not foreign and (_is_zero(a) or _is_zero(b)):
        return a if _is_zero(b) else _scaled(b, scale)
    terms = (
        _added(a.matrices, b.matrices, scale),
        _added(a.thin, b.thin, scale),
        _added(a.variables, b.variables, scale),
    )
    found = Factored(like, *terms, Origin(partial(_plus, scale=scale), (a, b)))
    return _as_matrix(found, found.whole()) if foreign else _of_few(found)


def _is_zero(weights: Factored) -> bool:
    return not (weights.matrices or weights.thin or weights.variables or weights.origin)


def _as_factored(value: Any, like: Factored) -> Factored | None:
    if not isinstance(value, Tensor) or (value.shape, value.dtype) != (like.shape, like.dtype):
        return None
    return value if isinstance(value, Factored) else Factored(like, (Term(1.0, value),))


def _of_few(weights: Factored) -> Factored:
    """The same; summed up if it has become so many terms that it is no longer worth it."""
    few = weights.rows() <= break_even(*weights.shape) and len(weights.matrices) <= MOST_MATRICES
    return weights if few else _as_matrix(weights, weights.total(own=False))


def _as_matrix(weights: Factored, whole: Tensor) -> Factored:
    """The same with this one matrix and nothing thin, made of nothing else."""
    return Factored(weights, (Term(1.0, whole),), (), weights.variables)


def _added(a: Terms, b: Terms, b_scale: Number) -> Terms:
    """The terms of a + b_scale * b: of what is in both, one term; what cancels is gone."""
    found = {id(term.of): term for term in a}
    for scale, of in b:
        before = found[id(of)].scale if id(of) in found else 0.0
        found[id(of)] = Term(before + _times(b_scale, scale), of)
    return tuple(term for term in found.values() if isinstance(term.scale, Tensor) or term.scale != 0.0)


def _times(a: Number, b: Number) -> Number:
    return b if _is_one(a) else a if _is_one(b) else a * b


def _is_one(scale: Number) -> bool:
    return not isinstance(scale, Tensor) and scale == 1.0


def _add(a: Any, b: Any, *, alpha: Number = 1.0) -> Any:
    return _sum(a, b, alpha)


def _subtract(a: Any, b: Any, *, alpha: Number = 1.0) -> Any:
    return _sum(a, b, -alpha)


def _subtract_from(a: Any, b: Any) -> Any:
    return _sum(b, a, -1.0)


def _multiply(a: Any, b: Any) -> Any:
    factored, number = (a, b) if isinstance(a, Factored) else (b, a)
    return _scaled(factored, number) if _is_number(number) else _as_read(a) * _as_read(b)


def _divide(a: Any, b: Any) -> Any:
    if not isinstance(a, Factored) or not _is_number(b) or (not isinstance(b, Tensor) and b == 0):
        return _as_read(a) / _as_read(b)
    return _scaled(a, 1.0 / (b.to(a.dtype) if isinstance(b, Tensor) else b), partial(torch.div, other=b))


def _as_read(value: Any) -> Any:
    """For operators that give a tensor of their own."""
    return value.matrix(own=False) if isinstance(value, Factored) else value


def _scaled(weights: Factored, number: Number, rule: Callable[..., Tensor] | None = None) -> Factored:
    """The weights times a number; rule: the operator that says so, if it is another than torch.mul."""
    if _is_zero(weights) or _is_one(number):
        return weights
    matrices, thin, variables = (
        _added((), terms, number) for terms in (weights.matrices, weights.thin, weights.variables)
    )
    origin = Origin(rule or partial(torch.mul, other=number), (weights,))
    return Factored(weights, matrices, thin, variables, origin)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not isinstance(value, Factored) and value.dim() == 0
    return isinstance(value, int | float)


def _add_product(a: Any, b: Any, c: Any, *, value: Number = 1.0) -> Any:
    """torch.addcmul: a + value * b * c, where c (or b) is a number."""
    factor, number = (b, c) if _is_number(c) else (c, b)
    return _sum(a, factor, _times(value, number)) if _is_number(number) else NotImplemented


def _zeros_like(a: Factored) -> Factored:
    return Factored(a)


def _detached(a: Factored) -> Factored:
    """Without variables, and constant; what is so already stays the same, by its identity."""
    if not _depends(a):
        return a
    if a.origin and _tracked(a):
        a.whole()  # the origin would bring the graph along
    matrices = tuple(Term(_constant(scale), _constant(of)) for scale, of in a.matrices)
    thin = tuple(
        Term(_constant(scale), Thin(of.g.detach(), of.x.detach()) if _differentiable(of) else of)
        for scale, of in a.thin
    )
    return Factored(a, matrices, thin, (), a.origin)


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) and value.requires_grad else value


def _depends(a: Factored) -> bool:
    """Whether a gradient may have to pass through it."""
    return bool(a.variables) or _tracked(a)


def _tracked(a: Factored) -> bool:
    """Whether it is part of autograd's graph."""
    return any(_differentiable(term) for term in a.matrices) or any(
        _differentiable((term.scale, *term.of)) for term in a.thin
    )


def _writes(func: Callable[..., Any]) -> bool:
    name = func.__name__
    return name in _WRITING or (name.endswith("_") and not name.endswith("__"))


_RULES: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    torch.add: _add,
    torch.Tensor.add: _add,
    torch.Tensor.__add__: _add,
    torch.Tensor.__radd__: _add,
    torch.sub: _subtract,
    torch.Tensor.sub: _subtract,
    torch.Tensor.__sub__: _subtract,
    torch.Tensor.__rsub__: _subtract_from,
    torch.mul: _multiply,
    torch.Tensor.mul: _multiply,
    torch.Tensor.__mul__: _multiply,
    torch.Tensor.__rmul__: _multiply,
    torch.div: _divide,
    torch.Tensor.div: _divide,
    torch.Tensor.__truediv__: _divide,
    torch.neg: lambda a: _scaled(a, -1.0),
    torch.Tensor.neg: lambda a: _scaled(a, -1.0),
    torch.Tensor.__neg__: lambda a: _scaled(a, -1.0),
    torch.addcmul: _add_product,
    torch.zeros_like: _zeros_like,
    torch.detach: _detached,
    torch.Tensor.detach: _detached,
    getattr(torch.Tensor, "requires_grad").__get__: _depends,  # noqa: B009
}
"""Functions that keep the form; they return NotImplemented for arguments with which they would not."""

_FACTS = {
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "layout", "ndim", "is_sparse")),
    torch.Tensor.size,
    torch.Tensor.dim,
    torch.Tensor.numel,
    torch.Tensor.element_size,
    torch.Tensor.is_floating_point,
    torch.Tensor.__len__,
}
"""What may be asked without the values."""

_WRITING = {"__setitem__", "__set__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__"}
"""What changes its first argument, beside functions whose names end in one underscore."""
