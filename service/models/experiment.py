"""A model as Pointcept's training leaves it, served as it is: a folder with config.py and model/, or one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from service import transforms
from service.errors import ServiceError, UnusableModel
from service.models import checkpoint, config, conventions, datasets, encoders, generation, names, pipeline, texts
from service.models.batch import collate
from service.models.layers.engine import EngineName
from service.models.layers.engine import engine as choose_engine
from service.models.model import Model
from service.models.site import Builder, Generation, Site
from service.transforms.recipe import FEATURES, Recipe
from service.values import ClassInfo, ModelCard, PointCloud

CHECKPOINTS = ("model_best.pth", "model_last.pth")
MAX_NUMBER = 100_000
"""Largest number in a network's configuration: of channels, blocks, cells. A larger one would be built for hours."""
_SHOWN = 5


@dataclass(frozen=True)
class Plan:
    """What a configuration says.

    Attributes:
        network: the configuration of the network.
        recipe: what its input looks like.
        card: what may be said of it before its weights are there; `parameters` are counted.
        generation: which Pointcept trained it.
        conditions: the datasets that the network was trained for, and the classes of each; empty: it knows none.
        empty: the network without numbers, on the device meta.
    """

    network: Mapping[str, Any]
    recipe: Recipe
    card: ModelCard
    generation: Generation
    conditions: Mapping[str, tuple[ClassInfo, ...]]
    empty: nn.Module


@dataclass(frozen=True)
class Experiment:
    """An experiment folder, or a checkpoint that carries its configuration or stands beside it.

    Attributes:
        name: by which requests ask for it.
        path: the folder, or the checkpoint.
        families: `catalogue.FAMILIES`.
        told: the generation of its weights, where an operator knows.
    """

    name: str
    path: Path
    families: Mapping[str, Builder]
    told: str | None = None

    def card_or_error(self) -> ModelCard | ServiceError:
        """Return the card, or what is wrong with the configuration; of the checkpoint the file's index is read."""
        try:
            weights, configuration = self._files()
            if configuration is None:
                return self.plan(*_carried(weights, checkpoint.load(weights))).card
            checkpoint.inspect(weights)
            return self.plan(*config.read(configuration)).card
        except ServiceError as error:
            return error

    def load(self, device: torch.device, engine: EngineName, *, exact: bool = False) -> Model:
        """Load the weights onto a device, in float32 on a GPU too if exact, and label a made-up cloud.

        Raises:
            UnusableModel: the configuration or the checkpoint cannot be used, or they do not belong together.
        """
        weights, configuration = self._files()
        stored = checkpoint.load(weights)
        found = _carried(weights, stored) if configuration is None else config.read(configuration)
        plan = self.plan(*found)
        # Before a configuration's network is made in earnest, whatever its size.
        own = encoders.weights_of(plan.empty, stored.weights)
        own = texts.complete(plan.empty, own, weights, configuration)
        _fit(plan.empty, own, weights)
        origin = {"file": weights.name, "sha256": checkpoint.digest(weights), **stored.about}
        card = replace(plan.card, about={**plan.card.about, "checkpoint": origin})
        return self.assemble(replace(plan, card=card), own, device, engine, exact=exact)

    def assemble(
        self,
        plan: Plan,
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
        engine: EngineName,
        *,
        exact: bool = False,
    ) -> Model:
        """Return the model of a plan with these weights, which must fit, after it has labelled a made-up cloud.

        Raises:
            UnusableModel: it cannot be built, or fails on the cloud.
        """
        layers = choose_engine(engine, device)
        network: Any = self._build(plan.network, Site(layers, self.families, plan.generation))
        network.load_state_dict(weights, strict=True)
        network.eval()
        if layers.folds and hasattr(network, "fold"):
            network.fold()
        model = Model(network, plan.card, plan.recipe, layers, device, exact=exact, conditions=plan.conditions)
        self._try(model)
        return model

    def _files(self) -> tuple[Path, Path | None]:
        """Return the checkpoint and the configuration; None: it is in the checkpoint."""
        if self.path.is_file():
            # As given by who points at exp/.../model/model_best.pth, or keeps both files in one folder.
            beside = (self.path.parent / "config.py", self.path.parent.parent / "config.py")
            return self.path, next((file for file in beside if file.is_file()), None)
        if not self.path.is_dir():
            raise UnusableModel(f"There is no experiment {self.path}.")
        if not (self.path / "config.py").is_file():
            raise UnusableModel(f"The folder {self.path} has no config.py, which Pointcept's training leaves there.")
        for name in CHECKPOINTS:
            if (self.path / "model" / name).is_file():
                return self.path / "model" / name, self.path / "config.py"
        raise UnusableModel(
            f"The folder {self.path} has no checkpoint: neither model/{' nor model/'.join(CHECKPOINTS)}."
        )

    def plan(self, values: Mapping[str, Any], notes: tuple[str, ...] = ()) -> Plan:
        """Return what a configuration amounts to.

        Args:
            values: the whole of it.
            notes: sentences for the card, of what was taken for granted so far.

        Raises:
            UnusableModel: what in it cannot be served.
        """
        values, completed = encoders.complete(values)
        network = values.get("model")
        if not isinstance(network, Mapping):
            raise UnusableModel(f"The configuration of {self.name} has no `model`.")
        large = _large(network)
        if large is not None:
            raise UnusableModel(
                f"The configuration of {self.name} has the number {large:g} in its network; {MAX_NUMBER} is the most."
            )
        known = self._generation(values)
        with torch.device("meta"):
            # Only names and sizes: no number is drawn.
            site = Site(choose_engine("native", torch.device("cpu")), self.families, known.generation)
            empty = self._build(network, site)
        inner = _innermost(network)
        built: Any = getattr(empty, "backbone", empty)
        width = getattr(built, "reads", inner.get("in_channels"))
        tasks = tuple(getattr(empty, "tasks", ("segment",)))
        try:
            recipe, more = pipeline.recipe(values, known.generation != "v1.6", width)
        except ValueError as error:
            raise UnusableModel(f"The model {self.name} cannot be served: {error}") from error
        if getattr(empty, "grouping", None) is not None:
            recipe = replace(recipe, augmentations=(), superpoints=getattr(empty, "superpoints", False))
        recipe = replace(recipe, condition=datasets.condition(empty, recipe.condition, values))
        labels, guessed = ([], []) if tasks == ("embed",) else names.of(values, network, self.name)
        if width is not None and width != recipe.width:
            parts = ", ".join(f"{name} ({FEATURES[name]})" for name in recipe.features)
            raise UnusableModel(
                f"The network of {self.name} reads {width!r} input channels, and its transforms make {recipe.width}: "
                f"{parts}."
            )
        warnings = [*notes, *completed, *more, *guessed]
        if not known.sure and _matters(inner, recipe):
            warnings.append(
                f"Which Pointcept trained this model is not known: {known.generation} was assumed, for "
                f"{known.how}. A wrong guess makes wrong labels; GENERATION says which it was: "
                f"{', '.join(generation.GENERATIONS)}."
            )
        family = str(inner.get("type"))
        card = ModelCard(
            name=self.name,
            title=_title(str(network.get("type")), family, len(labels)),
            family=family,
            classes=conventions.classes(labels),
            inputs=recipe.features,
            grid_size=recipe.grid_size,
            parameters=sum(parameter.numel() for parameter in empty.parameters()),
            source=str(self.path),
            about={
                "segmentor": str(network.get("type")),
                "generation": known.generation,
                "generation_known": f"because {known.how}",
                "warnings": warnings,
            },
            tasks=tasks,
        )
        conditions = datasets.classes(empty, network, recipe.condition, card.classes)
        if conditions:
            told = {name: [info.name for info in infos] for name, infos in conditions.items()}
            card = replace(card, about={**card.about, "condition": recipe.condition, "conditions": told})
        return Plan(network, recipe, card, known.generation, conditions, empty)

    def _generation(self, values: Mapping[str, Any]) -> generation.Known:
        try:
            return generation.of(values, self.told)
        except ValueError as error:
            raise UnusableModel(f"The model {self.name} cannot be served: {error}") from error

    def _build(self, network: Mapping[str, Any], site: Site) -> nn.Module:
        try:
            return site.build(network)
        except KeyError as error:
            raise UnusableModel(f"The configuration of {self.name}'s network lacks {error}.") from error
        except ImportError as error:
            package = error.name or str(error)
            raise UnusableModel(
                f"The model {self.name} needs the package {package}, which is not installed."
            ) from error
        except Exception as error:
            # Whatever a network's constructor says of arguments that do not go together.
            said = str(error) if isinstance(error, ValueError) else f"its network cannot be built: {error!r}"
            raise UnusableModel(f"The model {self.name} cannot be served: {said}") from error

    def _try(self, model: Model) -> None:
        """Label a made-up cloud; its labels mean nothing, but that there are as many classes as names does."""
        coord = np.random.default_rng(0).uniform(0, 20 * model.recipe.grid_size, (2000, 3))
        coord[:1000, 2] = 0
        cloud = PointCloud(
            coord,
            np.full(coord.shape, 128, np.uint8),
            np.tile(np.array([0, 0, 1], np.float32), (len(coord), 1)),
            np.zeros(len(coord), np.float32),
        )
        try:
            batch = collate(transforms.prepare(cloud, model.recipe, model.device).tiles)
            answer = model.forward(batch)
        except ServiceError:
            raise
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            raise UnusableModel(f"The model {self.name} fails on a made-up cloud: {error}") from error
        rows = 1 if "classify" in model.card.tasks else len(batch.feat)
        if answer.ndim != 2 or len(answer) != rows:
            raise UnusableModel(
                f"The network of {self.name} gives an answer of the shape {tuple(answer.shape)} for a cloud of "
                f"{len(batch.feat)} voxels; {rows} rows are wanted."
            )
        width = answer.shape[1] - (0 if model.grouping is None else model.grouping.channels)
        if model.card.classes and width != len(model.card.classes):
            raise UnusableModel(
                f"The network of {self.name} gives {width} numbers for each "
                f"{'cloud' if rows == 1 else 'point'}, and its configuration names {len(model.card.classes)} classes."
            )


def _title(network: str, family: str, classes: int) -> str:
    """Return one line for a model's card."""
    of = network if network == family else f"{network} of {family}"
    return f"{of}, {classes} classes" if classes else f"{of}, features without classes"


def _carried(path: Path, stored: checkpoint.Checkpoint) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the configuration that a checkpoint carries, and what was taken for granted; see `encoders.complete`."""
    if stored.config is None:
        raise UnusableModel(
            f"The checkpoint {path} carries no configuration, and there is no config.py beside it or a folder above it."
        )
    values: Mapping[str, Any] = (
        config.read_text(stored.config, f"in {path}") if isinstance(stored.config, str) else stored.config
    )
    if "type" in values:
        values = {"model": values}
    values, notes = encoders.complete(values, stored.weights)
    if "model" not in values:
        raise UnusableModel(
            f"The configuration in {path} has no `model`: it describes a network without a head "
            f"({', '.join(str(key) for key in list(values)[:_SHOWN])}, ...), which labels nothing."
        )
    return values, notes


def _innermost(network: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the backbone of a network's configuration, or the backbone's backbone; itself where there is none."""
    inner = network.get("backbone")
    return _innermost(inner) if isinstance(inner, Mapping) else network


def _large(value: Any) -> int | float | None:
    """Return a number in a network's configuration that is past MAX_NUMBER, or None."""
    if isinstance(value, int | float):
        return value if abs(value) > MAX_NUMBER else None
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return next((found for each in inner if (found := _large(each)) is not None), None)


def _matters(inner: Mapping[str, Any], recipe: Recipe) -> bool:
    """Return whether a model computes differently in different generations."""
    return inner.get("type") == "PT-v3m1" or bool({"color", "color_signed"} & set(recipe.features))


def _fit(network: nn.Module, weights: Mapping[str, torch.Tensor], path: Path) -> None:
    """Check that weights are those of a network: every name and shape must fit, and every weight be a number.

    Raises:
        UnusableModel: what is missing, what is left over, what has another shape, or that a weight is not a number.
    """
    wanted = network.state_dict()
    if hasattr(network, texts.KEY):
        wanted[texts.KEY] = getattr(network, texts.KEY)
    shapes = [
        f"{key} {tuple(weights[key].shape)} in the place of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in weights and weights[key].shape != wanted[key].shape
    ]
    complaints = [
        _complaint("missing", [key for key in wanted if key not in weights]),
        _complaint("left over", [key for key in weights if key not in wanted]),
        _complaint("of another shape", shapes),
    ]
    if any(complaints):
        said = "; ".join(complaint for complaint in complaints if complaint)
        raise UnusableModel(f"The checkpoint {path} does not fit its configuration's network: {said}.")
    broken = [key for key, value in weights.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if broken:
        raise UnusableModel(f"The checkpoint {path} has weights that are not numbers: {_complaint('broken', broken)}.")


def _complaint(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{more})"
