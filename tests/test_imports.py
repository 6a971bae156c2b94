"""The arrows of the architecture: who may import whom, and what a web process may load."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SERVICE = ROOT / "service"
FILES = sorted(path for path in SERVICE.rglob("*.py"))

# Which of the service's own rooms each room may import; its own is always allowed, `values` and `errors` are too.
ROOMS = {
    "values": set(),
    "errors": set(),
    "settings": set(),
    "logs": set(),
    "keys": {"settings"},
    "picture": set(),
    "formats": set(),
    "wire": {"formats"},
    "transforms": set(),
    "models": {"transforms"},
    "measure": set(),
    "gpu": set(),
    "checkpoints": set(),
    "environment": {"gpu", ""},
    "engine": {"formats", "transforms", "models", "measure", "picture", "gpu", "environment", "settings", "logs"},
    "web": {"wire", "formats", "engine", "settings", "logs", "keys", ""},
    "wsgi": {"web", "settings", "logs"},
    "serve": {"engine", "settings", "logs", "keys"},
    "cli": {"wire", "formats", "engine", "models", "picture", "serve", "environment", "settings", "keys", ""},
    "": set(),
}
WEB_SEES_OF_ENGINE = {"client", "pool", "shared"}
FLASK = {"flask", "apiflask", "werkzeug", "gunicorn"}
TORCH = {"torch", "torchvision", "spconv", "cumm", "safetensors.torch"}
TORCH_ROOMS = {"models", "transforms", "engine", "environment"}
LAZY = {"laspy", "lazrs", "lzf", "pypcd4", "pye57", "open3d", "spconv", "cumm", "timm", "matplotlib", "torch_geometric"}
TESTS_ONLY = {"plyfile", "pypcd4", "pytest", "hypothesis", "requests", "scipy"}


def room(path: Path) -> str:
    """Return the room that a file stands in: "formats", "cli", "values", ...; "" is service/__init__.py."""
    first = path.relative_to(SERVICE).parts[0]
    return first.removesuffix(".py").removesuffix("__init__")


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the full names that an import statement anywhere in the tree asks for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays inside its own package: "." never is a name of another.
            yield from ("." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names)


def top(name: str) -> str:
    return name.split(".")[0]


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(ROOT)))
def module(request: pytest.FixtureRequest) -> tuple[Path, ast.Module]:
    """Each file of the service, with its syntax tree."""
    return request.param, _parsed(request.param)


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_arrows(module: tuple[Path, ast.Module]) -> None:
    path, tree = module
    here = room(path)
    assert here in ROOMS, f"{path.name} is a new room: say in ROOMS what it may import"
    allowed = ROOMS[here] | {here, "values", "errors"}
    for name in imported(tree):
        assert not name.startswith("."), f"in the service, imports are written in full: {name}"
        if top(name) != "service":
            continue
        parts = name.split(".")
        there = parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""
        assert there in allowed, f"{here} imports {name}"
        if (here, there) == ("web", "engine"):
            assert parts[2] in WEB_SEES_OF_ENGINE, f"web sees more of the engine than its client: {name}"


def test_flask_stays_in_web_and_torch_out_of_it(module: tuple[Path, ast.Module]) -> None:
    path, tree = module
    names = {top(name) for name in imported(tree)} | set(imported(tree))
    if room(path) != "web":
        assert not names & FLASK
    if room(path) not in TORCH_ROOMS:
        assert not names & TORCH
    assert not names & TESTS_ONLY


def test_heavy_libraries_are_imported_by_the_function_that_needs_them(module: tuple[Path, ast.Module]) -> None:
    _path, tree = module
    at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not {top(name) for node in at_import for name in imported(node)} & LAZY


def test_only_settings_reads_the_environment(module: tuple[Path, ast.Module]) -> None:
    path, tree = module
    if path != SERVICE / "settings.py":
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & {"environ", "getenv", "environb"} - _of_wsgi_requests(tree)


def _of_wsgi_requests(tree: ast.AST) -> set[str]:
    """Return {"environ"} where each `.environ` of the tree is a WSGI request's, not the process's."""
    owners = [node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "environ"]
    return {"environ"} if owners and all(isinstance(o, ast.Name) and o.id == "request" for o in owners) else set()


def test_model_families_do_not_import_each_other() -> None:
    catalogue = ast.parse((SERVICE / "models" / "catalogue.py").read_text(encoding="utf-8"))
    table = next(
        node.value
        for node in ast.walk(catalogue)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "FAMILIES"
    )
    families = {node.id for node in ast.walk(table) if isinstance(node, ast.Name)} if table else set()
    assert families, "FAMILIES is a dict of <module>.<function>"
    for family in families:
        tree = ast.parse((SERVICE / "models" / f"{family}.py").read_text(encoding="utf-8"))
        for name in imported(tree):
            others = {f"service.models.{other}" for other in families - {family}}
            assert not any(name == other or name.startswith(f"{other}.") for other in others), f"{family}: {name}"


def test_libs_do_not_import_the_service() -> None:
    for path in (ROOT / "libs").rglob("*.py"):
        assert "service" not in {top(name) for name in imported(ast.parse(path.read_text(encoding="utf-8")))}, path


@pytest.mark.parametrize("name", ["service.wsgi", "service.cli.app", "service.engine.client"])
def test_process_without_torch(name: str) -> None:
    """What the web process and the command line load at their start: no torch, no model library."""
    code = f"import sys, {name}; print(*sorted(set({sorted(TORCH | LAZY)!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
