"""The command `pointserve`. A command imports what it needs when it runs, so that `--help` is quick."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from service import __version__
from service.errors import ServiceError

app = typer.Typer(
    help="PointServe: label point clouds, over HTTP and from the command line.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Port = Annotated[int | None, typer.Option(min=1, max=65535, help="TCP port; the environment's PORT or 5001.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="A model to serve: a name, an experiment folder or a checkpoint; may be repeated."),
]
ModelsDir = Annotated[str | None, typer.Option(help="Folder whose experiments are served, each under its own name.")]
Generation = Annotated[
    str | None, typer.Option(help="Which Pointcept trained the experiments' weights: v1.5.1, v1.5.2, v1.6 or auto.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ApiKey = Annotated[str | None, typer.Option(help="Key of the running service; the environment's API_KEY.")]
Url = Annotated[str | None, typer.Option(help="A running service (http://host:port); without it, none is needed.")]


class Output(str, Enum):
    """Forms in which `segment` writes labels."""

    same = "same"
    ply = "ply"
    pcd = "pcd"
    las = "las"
    laz = "laz"
    npz = "npz"
    json = "json"


class Tta(str, Enum):
    """How often `segment` looks at a cloud."""

    none = "none"
    full = "full"


class Units(str, Enum):
    """Units of coordinates that `measure` knows."""

    m = "m"
    cm = "cm"
    mm = "mm"


class Color(str, Enum):
    """What `render` colours points by."""

    label = "label"
    rgb = "rgb"
    height = "height"


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"pointserve {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """PointServe: label point clouds, over HTTP and from the command line."""


@app.command()
def serve(
    port: Port = None,
    address: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0: all.")] = None,
    model: Models = None,
    models_dir: ModelsDir = None,
    generation: Generation = None,
    device: Device = None,
) -> None:
    """Run the service until Ctrl-C. Its other settings are environment variables; options here come first."""
    from service import serve as parent

    chosen: dict[str, Any] = {"models": model, "models_dir": models_dir, "generation": generation}
    raise typer.Exit(parent.serve(_settings(port=port, address=address, device=device, **chosen)))


@app.command()
def demo(
    port: Port = None,
    model: Models = None,
    sample: Annotated[Path | None, typer.Option(help="The cloud to label; the bundled sample.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("output"),
    once: Annotated[bool, typer.Option("--once", help="End after the job.")] = False,
) -> None:
    """Run the service, label a sample through it, and stay until Ctrl-C. `./run_local.sh` ends in this."""
    from service.cli import demo as command

    settings = _settings(port=port, models=model, quiet=True)
    raise typer.Exit(command.demo(settings, sample or command.SAMPLE, out, once))


@app.command()
def segment(
    files: Annotated[list[Path], typer.Argument(help="Point clouds.", exists=True, dir_okay=False, readable=True)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the labelled files.")],
    url: Url = None,
    output: Annotated[
        Output, typer.Option(help="Form of the result; same: the user's own file with labels.")
    ] = Output.same,
    format: Annotated[
        str | None, typer.Option(help="Format of the files, where names and contents do not say.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name of the model, without --url also an experiment folder; the first one when absent."),
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Also write how sure the model is of each point.")] = False,
    tta: Annotated[
        Tta, typer.Option(help="full: look at each cloud under the augmentations of the model's configuration.")
    ] = Tta.none,
    condition: Annotated[
        str | None, typer.Option(help="Of a model that was trained on several datasets, the one that is meant.")
    ] = None,
    device: Device = None,
    api_key: ApiKey = None,
) -> None:
    """Label files: through a running service (--url), or with an engine of one's own that ends with the command."""
    from service.cli import segment as command

    job = command.Job(out, output.value, format, model, scores, tta.value, condition)
    if url is not None:
        failed = command.segment_remotely(files, job, url, _settings(api_key=api_key).api_key)
    else:
        settings = _settings(models=[model] if model else None, device=device, quiet=True)
        failed = command.segment_here(files, job, settings)
    raise typer.Exit(1 if failed else 0)


@app.command()
def measure(
    files: Annotated[list[Path], typer.Argument(help="Point clouds.", exists=True, dir_okay=False, readable=True)],
    url: Url = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The cloud with its boxes drawn, .ply or .png; {} in the name stands for the file's."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON in the place of a table.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values in the place of a table.")] = False,
    units: Annotated[
        Units | None, typer.Option(help="Unit of the coordinates; metres or millimetres by the cloud's size.")
    ] = None,
    up: Annotated[str | None, typer.Option(help="x,y,z of the direction away from what the boxes stand on.")] = None,
    viewpoint: Annotated[
        str | None, typer.Option(help="x,y,z of where the sensor stood; none: a cloud merged of several views.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="Format of the files, where names and contents do not say.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model; the first one when absent.")] = None,
    device: Device = None,
    api_key: ApiKey = None,
) -> None:
    """Measure the boxes in files: through a running service (--url), or with an engine of one's own."""
    from service.cli import measure as command

    if json and csv:
        raise typer.BadParameter("--json and --csv exclude each other")
    form = "json" if json else "csv" if csv else "table"
    towards, eye = command.direction(up), command.place(viewpoint)
    job = command.Job(form, output, format, model, units.value if units else None, towards, eye)
    if url is not None:
        failed = command.measure_remotely(files, job, url, _settings(api_key=api_key).api_key)
    else:
        settings = _settings(models=[model] if model else None, device=device, quiet=True)
        failed = command.measure_here(files, job, settings)
    raise typer.Exit(1 if failed else 0)


@app.command()
def classify(
    files: Annotated[list[Path], typer.Argument(help="Point clouds.", exists=True, dir_okay=False, readable=True)],
    url: Url = None,
    format: Annotated[
        str | None, typer.Option(help="Format of the files, where names and contents do not say.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name of the model, without --url an experiment folder or a checkpoint."),
    ] = None,
    device: Device = None,
    api_key: ApiKey = None,
) -> None:
    """Tell the class of each file as a whole: through a running service (--url), or with an engine of one's own."""
    from service.cli import classify as command

    if url is not None:
        failed = command.classify_remotely(files, format, model, url, _settings(api_key=api_key).api_key)
    else:
        settings = _settings(models=[model] if model else None, device=device, quiet=True)
        failed = command.classify_here(files, format, settings)
    raise typer.Exit(1 if failed else 0)


@app.command()
def models(
    url: Url = None,
    api_key: ApiKey = None,
    model: Models = None,
    models_dir: ModelsDir = None,
    generation: Generation = None,
) -> None:
    """List the models that a running service has, or without --url those that one with these options would have."""
    from service.cli import models as command

    chosen: dict[str, Any] = {"models": model, "models_dir": models_dir, "generation": generation}
    raise typer.Exit(command.show(url, _settings(api_key=api_key, **chosen)))


@app.command()
def render(
    file: Annotated[Path, typer.Argument(help="A point cloud.", exists=True, dir_okay=False, readable=True)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The picture; FILE with the ending .png.")] = None,
    color: Annotated[
        Color | None, typer.Option(help="What to colour by; the first of these that the file has.")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="The file's format, where its name and content do not say.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model whose classes the labels mean, for their names.")] = None,
) -> None:
    """Draw a labelled cloud as a PNG."""
    from service.cli import render as command

    target = out or file.with_suffix(".png")
    command.render(file, target, color.value if color else None, format, model)
    print(target)


def _settings(quiet: bool = False, models: list[str] | None = None, **options: Any) -> Any:
    """Return the environment's settings, overridden by the options that were given."""
    from pydantic import ValidationError

    from service.settings import Settings

    given = {name: value for name, value in options.items() if value is not None}
    if models:
        given["models"] = ",".join(models)
    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise typer.BadParameter(f"setting {name.upper()}: {first['msg']}") from None
    if quiet and "log_level" not in settings.model_fields_set:
        settings = settings.model_copy(update={"log_level": "error"})
    return settings


def main() -> None:
    """Run the command line; an error that a user may see becomes one sentence and exit status 1."""
    try:
        app()
    except ServiceError as error:
        print(f"pointserve: {error.detail}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
