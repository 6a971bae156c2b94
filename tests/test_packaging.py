"""pyproject.toml, pins.txt and what is installed agree, and nothing under the GPL is needed to run the service."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
RUN_EXTRAS = ("", "cu124", "e57", "normals", "pointcept")
# Needed by what we import rather than imported by us.
INDIRECT = {"gunicorn"}


def requirements(extras: tuple[str, ...]) -> list[Requirement]:
    """Return what the project asks for on this machine with these extras; "" is what it always asks for."""
    wanted = [Requirement(line) for line in metadata.requires("pointserve") or []]
    return [r for r in wanted if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


def closure(extras: tuple[str, ...]) -> Iterator[metadata.Distribution]:
    """Yield every installed distribution that running needs, directly or not."""
    queue = [(r.name, tuple(r.extras)) for r in requirements(extras)]
    seen = set()
    while queue:
        name, own = queue.pop()
        if canonicalize_name(name) in seen:
            continue
        seen.add(canonicalize_name(name))
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of an extra that is not installed here
        yield found
        for line in found.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in ("", *own)):
                queue.append((requirement.name, tuple(requirement.extras)))


def pins() -> dict[str, set[str]]:
    """Return name to pinned versions."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;]+)", (ROOT / "pins.txt").read_text(), re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def imported(*folders: str) -> set[str]:
    """Return the top-level names of everything that these folders import and that is not Python's own or ours."""
    names = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    ours = {"service", "tests", "training", "benchmarks", "stack", *(path.name for path in (ROOT / "libs").glob("*"))}
    return names - set(sys.stdlib_module_names) - ours


def test_everything_that_is_asked_for_is_pinned() -> None:
    pinned = pins()
    lines = metadata.requires("pointserve") or []
    assert {canonicalize_name(Requirement(line).name) for line in lines} <= pinned.keys()


def test_everything_that_running_needs_is_pinned() -> None:
    pinned = pins()
    names = {canonicalize_name(found.metadata["Name"]) for found in closure(("", "cu124", "e57"))}
    assert names - pinned.keys() == set()


def test_pins_name_no_index() -> None:
    text = (ROOT / "pins.txt").read_text()
    assert "://" not in text
    assert "--index" not in text


def test_imports_and_dependencies_are_the_same() -> None:
    providers = metadata.packages_distributions()
    declared = {canonicalize_name(r.name) for r in requirements(RUN_EXTRAS)}
    always = {canonicalize_name(r.name) for r in requirements(("",))}
    used = {canonicalize_name(name) for top in imported("service") for name in providers.get(top, [])}
    transitive = {canonicalize_name(found.metadata["Name"]) for found in closure(("",))}
    assert used - declared - transitive == set(), "imported, but nothing asks for it"
    assert always - used - INDIRECT == set(), "asked for, but nothing imports it"


def test_what_tests_and_training_import_is_asked_for() -> None:
    providers = metadata.packages_distributions()
    declared = {canonicalize_name(r.name) for r in requirements((*RUN_EXTRAS, "build", "peers", "test"))}
    transitive = {canonicalize_name(found.metadata["Name"]) for found in closure(("",))}
    wanted = {
        top: {canonicalize_name(name) for name in providers.get(top, [])}
        for top in imported("tests", "benchmarks", "training")
    }
    # What is not installed tells no package: then the module has the package's name.
    asked = {top for top, names in wanted.items() if (names or {canonicalize_name(top)}) & (declared | transitive)}
    assert set(wanted) - asked == set()


@pytest.mark.parametrize("extras", [("",), RUN_EXTRAS])
def test_licences(extras: tuple[str, ...]) -> None:
    """GPL and AGPL are out; the LGPL, which asks for less, would be seen here too."""
    guilty = []
    for found in closure(extras):
        about = found.metadata
        classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License")]
        said = " ".join([about.get("License-Expression") or "", *classifiers])
        if not said.strip():
            said = (about.get("License") or "")[:200]
        if re.search(r"\bA?L?GPL|GNU", said):
            guilty.append((about["Name"], said))
    assert guilty == []
