"""Quirks of the official code that `official_quirks` repeats, for rows of the protocol "paper" alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conffusion.core.randomness import keyed_generator

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Quirk:
    """What the official code does otherwise in one pass over a split (docs/official_code.md, sections 1 and 7).

    Attributes:
        call: Name of the pass; noise and classes are drawn anew for each, instead of once per image.
        dropout: Whether dropout stays on, as it does wherever the official code calibrates.
    """

    call: str
    dropout: bool

    @contextmanager
    def applied(self, network: "nn.Module", seed: int) -> Iterator[None]:
        """Evaluation mode in which dropout, and nothing else, may be on; its draws follow from seed and call."""
        import torch  # protocols are also used where nothing else needs it
        from torch import nn

        network.eval()
        if not self.dropout:
            yield
            return
        layers = [module for module in network.modules() if isinstance(module, nn.Dropout)]
        with torch.random.fork_rng():
            torch.manual_seed(int(keyed_generator("dropout", seed, self.call).integers(2**31)))
            for layer in layers:
                layer.train()
            try:
                yield
            finally:
                network.eval()


NO_QUIRK = Quirk("", dropout=False)
