"""What the hardware can do: dense float32 products, as fast as torch makes them."""

import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Product = Callable[[Tensor, Tensor], Tensor]


class Limit:
    """The fastest product of two square matrices, with the threads in use; calling it computes one."""

    def __init__(self, device: str = "cpu", size: int = 4096) -> None:
        self.device, self.flops = device, 2 * size**3
        self.a, self.b = (torch.randn(size, size, device=device) for _ in range(2))
        self.product = min(_products(device), key=self._trial)

    def __call__(self) -> None:
        """A product."""
        self.product(self.a, self.b)

    def _trial(self, product: Product) -> float:
        return min(self._seconds(product) for _ in range(3))

    def _seconds(self, product: Product) -> float:
        begun = time.perf_counter()
        product(self.a, self.b)
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - begun


def _products(device: str) -> Iterator[Product]:
    """Ways to the same product; on a CPU torch.mm is the BLAS library's, and oneDNN may be faster."""
    yield torch.mm
    yield F.linear
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # private: it may go
    if device == "cpu" and onednn is not None:
        yield lambda a, b: onednn(a, b, None, "none", [], "")
