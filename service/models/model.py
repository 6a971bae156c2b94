"""A loaded model: a network on its device, with the card and the recipe that belong to it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from service.errors import MalformedRequest
from service.models.batch import Batch
from service.models.layers.engine import Engine
from service.transforms.recipe import Recipe
from service.transforms.restore import Groups
from service.values import ClassInfo, ModelCard

LARGEST_ERROR = 1e-2
"""Of logits whose products were in bfloat16, against those in float32: norm of the difference by norm."""


class Model:
    """A network ready to label; half precision on CUDA unless it shall be exact, float32 on a CPU.

    Attributes:
        card: what users may know of it.
        recipe: what its input looks like.
        engine: name of the sparse convolution engine it runs on.
        device: where it is.
        conditions: the datasets that its network was trained for, and the classes of each; empty: it knows none.
        grouping: how its answer becomes objects; None: it has none.
        precision: of the products; float32 still where bfloat16 was asked for, but there is none or it errs too much.
    """

    def __init__(
        self,
        network: nn.Module,
        card: ModelCard,
        recipe: Recipe,
        engine: Engine,
        device: torch.device,
        *,
        exact: bool = False,
        conditions: Mapping[str, tuple[ClassInfo, ...]] | None = None,
    ) -> None:
        self.conditions = dict(conditions or {})
        self.grouping: Groups | None = getattr(network, "grouping", None)
        self.card, self.recipe, self.engine, self.device = card, recipe, engine.name, device
        self._alone = engine.alone
        # Converted, not under autocast: there spconv would meet half features and float weights, which it cannot mix.
        self.dtype = torch.float16 if device.type == "cuda" and not exact else torch.float32
        self._network = network.eval().requires_grad_(False).to(device, self.dtype)
        self.precision = str(self.dtype).removeprefix("torch.")
        self._may_narrow = engine.narrows and device.type == "cpu"
        self._on_trial = False

    def under(self, condition: str | None) -> Model:
        """Return this model with the norms, the head and the classes of a dataset; None: of its own configuration's.

        Raises:
            MalformedRequest: its network was not trained for such a dataset.
        """
        if condition is None or condition == self.recipe.condition:
            return self
        if condition not in self.conditions:
            known = f"knows {', '.join(self.conditions)}" if self.conditions else "was not trained for several datasets"
            raise MalformedRequest(f"condition is {condition!r}, but the model {self.card.name} {known}")
        other = copy.copy(self)
        other.recipe = replace(self.recipe, condition=condition)
        other.card = replace(self.card, classes=self.conditions[condition])
        return other

    def try_bfloat16(self) -> None:
        """Have the next forward run in float32 and in bfloat16, and stay with bfloat16 if it errs little enough.

        Nothing happens where the engine has no faster products in bfloat16 on this machine.
        """
        self._on_trial = self._may_narrow

    @property
    def bytes(self) -> int:
        """Memory that the network's numbers take on its device."""
        # Layers keep weights in other forms besides, once they have run.
        kept = (value for module in self._network.modules() for value in vars(module).values())
        held = (*self._network.parameters(), *self._network.buffers(), *kept)
        return sum(value.numel() * value.element_size() for value in held if isinstance(value, torch.Tensor))

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """Return float32 logits of a batch on the model's device: (M, C), row for row, or of a classifier (B, C)."""
        ready = self._ready(batch)
        with self._alone():
            logits: torch.Tensor = self._network(ready)
            if self._on_trial:
                self._try(ready, logits)
        return logits.float()

    @torch.inference_mode()
    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the (M, F) float32 features of a batch's rows; only a model with the task `embed` has them."""
        network: Any = self._network
        with self._alone():
            features: torch.Tensor = network.features(self._ready(batch))
        return features.float()

    def _ready(self, batch: Batch) -> Batch:
        return replace(batch, feat=batch.feat.to(self.dtype), condition=self.recipe.condition)

    def _try(self, batch: Batch, exact: torch.Tensor) -> None:
        self._on_trial = False
        self._narrow(True)
        error = float((self._network(batch) - exact).norm() / exact.norm())
        if error <= LARGEST_ERROR:  # not so where it is NaN
            self.precision = "bfloat16"
        else:
            self._narrow(False)

    def _narrow(self, wanted: bool) -> None:
        for module in self._network.modules():
            if hasattr(module, "narrow"):
                layer: Any = module
                layer.narrow = wanted
