"""How a name becomes a model that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from service.errors import InternalError, ServiceError
from service.models import (
    classifier,
    context_aware,
    encoders,
    entries,
    instance_segmentor,
    litept,
    low_rank,
    oacnns,
    point_group,
    point_transformer_cls,
    point_transformer_seg,
    point_transformer_v2m1,
    point_transformer_v2m2,
    point_transformer_v2m3,
    point_transformer_v3,
    point_transformer_v3m2,
    point_transformer_v3m3,
    prompt_training,
    prompt_training_v1m1,
    prompt_training_v1m3,
    segmentor,
    sgiformer,
    spunet,
    spunet_v1m2,
    spunet_v1m3,
)
from service.models.cards import WEIGHTS, card, cards, description
from service.models.experiment import Experiment
from service.models.layers.engine import EngineName
from service.models.layers.engine import engine as choose_engine
from service.models.model import Model
from service.models.site import Builder, Site
from service.transforms.recipe import Recipe
from service.values import ModelCard

__all__ = ["FAMILIES", "Source", "cards", "load", "sources"]


FAMILIES: Mapping[str, Builder] = {
    "DefaultSegmentor": segmentor.build,
    "DefaultSegmentorV2": segmentor.build_v2,
    "DefaultClassifier": classifier.build,
    "Sonata-v1m1": encoders.build,
    "Sonata-v1m2": encoders.build,
    "Concerto-v1m1": encoders.build,
    "Utonia-v1m1": encoders.build,
    "InstanceSegmentor": instance_segmentor.build,
    "SpUNet-v1m1": spunet.build,
    "SpUNet-v1m2": spunet_v1m2.build,
    "SpUNet-v1m3": spunet_v1m3.build,
    "OACNNs": oacnns.build,
    "PointTransformer-Seg26": point_transformer_seg.build_26,
    "PointTransformer-Seg38": point_transformer_seg.build_38,
    "PointTransformer-Seg50": point_transformer_seg.build_50,
    "PointTransformer-Cls26": point_transformer_cls.build_26,
    "PointTransformer-Cls38": point_transformer_cls.build_38,
    "PointTransformer-Cls50": point_transformer_cls.build_50,
    "PT-v2m1": point_transformer_v2m1.build,
    "PT-v2m2": point_transformer_v2m2.build,
    "PT-v2m3": point_transformer_v2m3.build,
    "PT-v3m1": point_transformer_v3.build,
    "PT-v3m2": point_transformer_v3m2.build,
    "PT-v3m3": point_transformer_v3m3.build,
    "LitePT-v1": litept.build,
    "PPT-v1m1": prompt_training_v1m1.build,
    "PPT-v1m2": prompt_training.build,
    "PPT-v1m3": prompt_training_v1m3.build,
    "CAC-v1m1": context_aware.build,
    "DefaultLORASegmentorV2": low_rank.build,
    "PG-v1m1": point_group.build,
    "PG-v1m2": point_group.build,
    "SGIFormer-v1m1": sgiformer.build,
}
"""Each family's network from its configuration and a site; `type` in the configuration is the key."""


class Choice(entries.Choice, Protocol):
    """The settings that say which models are served."""

    @property
    def generation(self) -> str:
        """Which Pointcept trained the experiments' weights, or auto."""


class Source(Protocol):
    """Where one model comes from. Nothing is read before it is asked."""

    @property
    def name(self) -> str:
        """Name by which requests ask for it."""

    def card_or_error(self) -> ModelCard | ServiceError:
        """Return what can be said of the model before its weights are loaded, or why it cannot be served."""

    def load(self, device: torch.device, engine: EngineName, *, exact: bool = False) -> Model:
        """Load it onto a device, in float32 on a GPU too if exact; raises ServiceError that says why it cannot be."""


@dataclass(frozen=True)
class Bundled:
    """A model that comes with the service."""

    name: str
    folder: Path = WEIGHTS

    def card_or_error(self) -> ModelCard | ServiceError:
        """Return its card."""
        try:
            return card(self.name, self.folder)
        except ServiceError as error:
            return error

    def load(self, device: torch.device, engine: EngineName, *, exact: bool = False) -> Model:
        """Load it; errors as in `catalogue.load`."""
        return load(self.name, device, engine, self.folder, exact=exact)


def sources(chosen: Choice) -> dict[str, Source]:
    """Return the models that the settings name, by name, in their order; the first is the default.

    A model that does not exist or cannot be read has a source too: it says so when it is asked.

    Raises:
        UnusableModel: the models folder is not there, or no model is named.
    """
    return {entry.name: _source(entry, chosen.generation) for entry in entries.entries(chosen)}


def _source(entry: entries.Entry, generation: str) -> Source:
    if entry.path is None:
        return Bundled(entry.name)
    told = entry.generation or (None if generation == "auto" else generation)
    return Experiment(entry.name, entry.path, FAMILIES, told)


def load(
    name: str,
    device: torch.device,
    engine: EngineName = "auto",
    folder: Path = WEIGHTS,
    *,
    exact: bool = False,
) -> Model:
    """Load a model's weights onto a device.

    Args:
        name: a name out of `cards`.
        device: where it shall run.
        engine: which sparse convolution to use; auto: spconv on CUDA where it is installed, native elsewhere.
        folder: where `<name>.json` and `<name>.safetensors` are.
        exact: float32 on a GPU too, where half precision is what it otherwise gets.

    Raises:
        UnknownModel: no model of that name; the sentence lists the names.
        InternalError: its files do not fit together, or the engine is not installed.
    """
    values = description(name, folder)
    shown = card(name, folder)
    try:
        recipe = Recipe.from_dict(values["recipe"])
        layers = choose_engine(engine, device)
        network: Any = Site(layers, FAMILIES).build(values["network"])
        _fill(network, folder / f"{name}.safetensors")
        _check(shown, recipe, network)
    except KeyError as error:
        raise InternalError(f"The description of model {name!r} lacks {error}.") from error
    except (ValueError, TypeError, OSError) as error:
        raise InternalError(f"The model {name!r} cannot be loaded: {error}") from error
    except ImportError as error:
        raise InternalError(f"The engine {engine} is not installed: {error}") from error
    network.eval()
    if layers.folds and hasattr(network, "fold"):
        network.fold()
    return Model(network, shown, recipe, layers, device, exact=exact)


def _fill(network: nn.Module, path: Path) -> None:
    """Load weights, stored in whatever precision, into a float32 network; every name must match."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
        network.load_state_dict(weights, strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path.name} does not hold this network's weights: {error}") from error


def _check(card: ModelCard, recipe: Recipe, network: nn.Module) -> None:
    """Refuse a card that says something else than what runs."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    for what, said, true in (
        ("inputs", card.inputs, recipe.features),
        ("grid_size", card.grid_size, recipe.grid_size),
        ("parameters", card.parameters, parameters),
    ):
        if said != true:
            raise ValueError(f"its card says {what} = {said}, but it is {true}.")
