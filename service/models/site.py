"""Where a network is built: what a family needs beside its own configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from service.models.layers.engine import Engine

Generation = Literal["v1.5.1", "v1.5.2", "v1.6"]
"""Which Pointcept trained the weights: up to v1.5.1, v1.5.2, or v1.6.0 and later. PT-v3m1 computes differently in each,
and colours are x / 127.5 - 1 before v1.6.0, x / 255 since."""


@dataclass(frozen=True)
class Site:
    """What networks are built with.

    Attributes:
        engine: makes the sparse convolutions.
        families: how to build each type of network; `service.models.catalogue.FAMILIES`.
        generation: of the weights that the network will be given.
    """

    engine: Engine
    families: Mapping[str, Builder]
    generation: Generation = "v1.6"

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the network of a Pointcept configuration: `type` names the family, the rest are its arguments.

        Families build the networks inside theirs (a segmentor its backbone) by this too.

        Raises:
            ValueError: no `type`, a family that is not supported, or arguments that the family refuses.
        """
        family = str(config.get("type"))
        if family not in self.families:
            known = ", ".join(self.families)
            raise ValueError(f"its network is of the unknown family {family!r}; known are: {known}.")
        try:
            return self.families[family]({key: value for key, value in config.items() if key != "type"}, self)
        except TypeError as error:
            # Python's own words for an argument too many or too few name it, and the function besides.
            raise ValueError(f"its network {family} cannot be built: {error}") from error


Builder = Callable[[Mapping[str, Any], Site], nn.Module]
"""A family: its arguments by Pointcept's names, and the site. The network's `forward` takes a Batch."""
