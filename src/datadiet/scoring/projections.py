"""Random projections: gradients of millions of numbers as a few thousand that keep their inner products.

Each number is added, with a random sign, at one of `size` places: no matrix is ever built, and a projection costs as
much as reading the vector. The places are those of a random permutation, so that each gets equally many numbers of a
tensor, and the result does not depend on the device or on the order of sums across threads.

Source: feature hashing (Weinberger et al. 2009, arXiv 0902.2206), the count sketch of Charikar et al. 2002, with places
dealt out evenly. `E <Sx, Sy> = <x, y>`, with variance at most `(|x|^2 |y|^2 + <x, y>^2) / size`, that of a dense matrix
of random signs (Achlioptas 2003).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_STREAM = 32


class Projection:
    """A random projection of a gradient, the same for every gradient of these tensors.

    Args:
        sizes: Numbers of each tensor, by name.
        size: Numbers of the projected vector; where it is not below their sum, the tensors are joined unchanged.
        seed: Of places and signs.
        device: Where the gradients are.

    Attributes:
        size: Numbers of the projected vector.
        exact: Whether nothing is projected.

    Examples:
        >>> project = Projection({"weight": 1000}, 64, seed=0)
        >>> vector = torch.ones(1000)
        >>> project({"weight": vector}).shape, Projection({"weight": 3}, 64, seed=0)({"weight": vector[:3]}).tolist()
        (torch.Size([64]), [1.0, 1.0, 1.0])
    """

    def __init__(
        self, sizes: Mapping[str, int], size: int, *, seed: int, device: torch.device | str | None = None
    ) -> None:
        self.exact = size >= sum(sizes.values())
        self.size = sum(sizes.values()) if self.exact else size
        self._places: dict[str, tuple[Tensor, Tensor]] = {}
        for place, (name, numbers) in enumerate(sizes.items()):
            if self.exact:
                continue
            generator = np.random.default_rng([seed, _STREAM, place])
            padded = -(-numbers // size) * size
            order = torch.from_numpy(generator.permutation(padded)).to(device)  # (padded,)
            signs = torch.from_numpy(generator.integers(0, 2, padded, dtype=np.int8) * 2 - 1).to(device)
            self._places[name] = order, signs

    def __call__(self, gradient: Mapping[str, Tensor]) -> Tensor:
        """The projected vector `(size,)` of one gradient, tensors by name; torch.func maps over it."""
        if self.exact:
            return torch.cat([part.flatten() for part in gradient.values()])
        return torch.stack([self._one(name, part.flatten()) for name, part in gradient.items()]).sum(0)

    def _one(self, name: str, numbers: Tensor) -> Tensor:
        order, signs = self._places[name]
        padded = torch.nn.functional.pad(numbers, (0, len(order) - len(numbers)))
        return (padded[order] * signs).reshape(-1, self.size).sum(0)
