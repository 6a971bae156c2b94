#!/usr/bin/env python
"""Is this environment sound? Prints a table of checks; exit status 0 when none failed.

    python smoke_tests.py                  everything that can run here; what needs a GPU is skipped without one
    python smoke_tests.py --require-gpu    a missing GPU is a failure
    python smoke_tests.py --startup        only what takes seconds and stops a service from starting; failures alone
    python smoke_tests.py --complete       also: every package of the conda environment is there, in its version

EXPECTED_CUDA in the environment says which CUDA torch must be built for (12.4 when it is not set).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from service import environment, gpu

HERE = Path(__file__).resolve().parent
EXPECTED_CUDA = os.environ.get("EXPECTED_CUDA") or "12.4"
# What must be installed in which version, by the CUDA that torch is built for; the values of pins.txt and stack/.
STACKS = {
    "12.4": {
        "torch": "2.5.0",
        "torchvision": "0.20.0",
        "numpy": "1.26.4",
        "spconv-cu124": "2.3.8",
        "cumm-cu124": "0.7.11",
    },
    "12.6": {"torch": "2.7.1", "spconv-cu126": "2.3.8", "cumm-cu126": "0.7.11"},
}
# Our libraries: the module that must import, and the operators' namespace.
EXTENSIONS = {"pointops._C": "pointops", "pointgroup_ops_cuda": "pointgroup_ops", "sparseconv._C": "sparseconv"}
# Those that have CUDA kernels; sparseconv runs on the CPU, and spconv on the GPU.
CUDA_LIBRARIES = ("pointops", "pointgroup_ops")
SAMPLE = HERE / "samples" / "parcels.ply"
REQUEST_S = 180.0


class Failed(Exception):
    """A check failed; the sentence says why and what to do."""


class Skipped(Exception):
    """A check does not apply here; the sentence says why."""


@dataclass(frozen=True)
class Result:
    """Outcome of a check: `status` is pass, fail or skip."""

    name: str
    status: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Context:
    """What the checks know: the options, and what the driver says."""

    require_gpu: bool
    complete: bool
    without: frozenset[str]
    driver: gpu.Driver

    def need_gpu(self) -> None:
        """Skip the check, or fail it where a GPU is required, when there is none to use."""
        if self.driver.fault is None:
            return
        raise Failed(self.driver.detail) if self.require_gpu else Skipped(self.driver.detail)


def check_environment(context: Context) -> str:
    """Python, the conda environment, the versions of the core packages, and with --complete of all."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        raise Failed(f"This is Python {sys.version.split()[0]}; the stack is made for 3.10, 3.11 and 3.12.")
    name = os.environ.get("CONDA_DEFAULT_ENV")
    if name and Path(sys.prefix).name != name:
        raise Failed(f"Environment {name} is not active: python is {sys.executable}. Run: conda activate {name}")
    wanted = dict(STACKS.get(EXPECTED_CUDA, {}))
    if context.complete:
        wanted |= requirements()
    faults = list(differences(wanted, context.without))
    if faults:
        raise Failed("; ".join(faults) + ". Make the environment anew from environment.yml.")
    left_out = f"; left out: {', '.join(sorted(context.without))}" if context.without else ""
    return f"{len(wanted) - len(context.without & wanted.keys())} packages in their versions{left_out}"


def requirements() -> dict[str, str]:
    """Return name to version of what the conda environment gets from pip; "" where a commit stands for it."""
    found = {}
    for file in ("environment-pip.txt", "environment-build.txt"):
        for line in (HERE / file).read_text(encoding="utf-8").splitlines():
            name, equals, version = line.partition("==")
            if equals and not line.startswith(("#", "-")):
                found[name.strip()] = version.strip()
            elif " @ " in line and not line.startswith("#"):
                found[line.split(" @ ")[0]] = ""
    return found


def differences(wanted: dict[str, str], without: frozenset[str]) -> Iterable[str]:
    """Yield in words what is not installed, or in another version."""
    for name, version in wanted.items():
        if name in without:
            continue
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"{name} {version} is not installed"
            continue
        if version and found.partition("+")[0] != version:
            yield f"{name} is {found}, not {version}"


def check_gpu(context: Context) -> str:
    """The driver, asked without torch."""
    context.need_gpu()
    driver = context.driver
    return f"{driver.name}, {dotted(driver.capability)}; the driver is made for CUDA {dotted(driver.cuda)}"


def check_torch(context: Context) -> str:
    """torch is built for the expected CUDA, and can use the GPU where there is one."""
    torch = load("torch", "make the environment anew from environment.yml")
    if torch.version.cuda is None:
        raise Failed(
            f"torch {torch.__version__} is built without CUDA: install the build for CUDA {EXPECTED_CUDA} (PyPI's "
            f"torch=={STACKS['12.4']['torch']} is the one for 12.4)."
        )
    if torch.version.cuda != EXPECTED_CUDA:
        raise Failed(
            f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, expected is {EXPECTED_CUDA}: make the "
            f"environment anew, or set EXPECTED_CUDA={torch.version.cuda} if this image is meant to have it."
        )
    if context.driver.fault is not None:
        return f"torch {torch.__version__}, CUDA {torch.version.cuda}, no GPU in use"
    own = gpu.Architectures(*map(frozenset, split_flags(torch._C._cuda_getArchFlags() or "")))
    need_code("torch", own, context)
    if not torch.cuda.is_available():
        raise Failed(
            "The driver has a GPU, but torch cannot use it: look at CUDA_VISIBLE_DEVICES, and run python -c "
            "'import torch; torch.cuda.init()' to see torch's own words."
        )
    square = torch.ones(64, 64, device="cuda")
    if float((square @ square)[0, 0]) != 64.0:
        raise Failed("A matrix product on the GPU is wrong: run the same again, then test the card itself.")
    return f"torch {torch.__version__}, CUDA {torch.version.cuda}, a matrix product on {torch.cuda.get_device_name(0)}"


def check_spconv(_context: Context) -> str:
    """spconv and cumm import."""
    spconv = load("spconv.pytorch", "install spconv and cumm in the versions of environment-pip.txt together")
    cumm = load("cumm", "install cumm in the version of environment-pip.txt")
    return f"spconv {importlib.import_module('spconv').__version__}, cumm {cumm.__version__}, {spconv.__name__}"


def check_extensions(_context: Context) -> str:
    """Our own extensions load."""
    for module, library in EXTENSIONS.items():
        load(module, rebuild(library))
    return ", ".join(EXTENSIONS)


def check_architectures(context: Context) -> str:
    """The extensions have code for this GPU; without one, which code they have."""
    found = {library: gpu.architectures(binary(library)) for library in EXTENSIONS.values()}
    if context.driver.fault is None:
        for library in CUDA_LIBRARIES:
            need_code(library, found[library], context)
    asked = {int(each.replace(".", "")) for each in re.findall(r"\d+\.\d", os.environ.get("TORCH_CUDA_ARCH_LIST", ""))}
    if os.environ.get("FORCE_CUDA") == "1":
        for library in CUDA_LIBRARIES:
            lacking = asked - found[library].machine
            if lacking:
                missing = ", ".join(f"sm_{code}" for code in sorted(lacking))
                raise Failed(f"{library} has no machine code for {missing}, which TORCH_CUDA_ARCH_LIST asks for.")
    return "; ".join(f"{library}: {own}" for library, own in found.items())


def check_spconv_forward(context: Context) -> str:
    """A submanifold convolution through spconv: on the GPU, or by its slow CPU path."""
    import torch

    spconv = load("spconv.pytorch", "install spconv and cumm in the versions of environment-pip.txt together")
    from spconv.core import ConvAlgo

    if context.require_gpu:
        context.need_gpu()
    device = "cpu" if context.driver.fault else "cuda"
    cells = torch.unique(torch.randint(0, 16, (500, 3), dtype=torch.int32), dim=0)
    indices = torch.cat([torch.zeros(len(cells), 1, dtype=torch.int32), cells], 1).to(device)
    given = spconv.SparseConvTensor(torch.ones(len(cells), 4, device=device), indices, [16, 16, 16], 1)
    algorithm = None if device == "cuda" else ConvAlgo.Native
    layer = spconv.SubMConv3d(4, 8, 3, bias=False, algo=algorithm, indice_key="smoke").to(device)
    with torch.inference_mode():
        result = layer(given).features
    if result.shape != (len(cells), 8) or not bool(torch.isfinite(result).all()):
        raise Failed(f"SubMConv3d gave {tuple(result.shape)} for {len(cells)} cells, or values that are not finite.")
    return f"SubMConv3d on {device}, {len(cells)} cells"


def check_kernels(context: Context, key: str) -> str:
    """Every operator of our libraries has a kernel for this device, and the nearest neighbours are right on it."""
    import torch

    if key == "CUDA":
        context.need_gpu()
    check_extensions(context)
    total = 0
    for library in EXTENSIONS.values() if key == "CPU" else CUDA_LIBRARIES:
        names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith(f"{library}::")]
        missing = [name for name in names if takes_tensors(name) and not has_kernel(name, key)]
        if missing or not names:
            what = ", ".join(missing) or "any operator"
            raise Failed(f"{library} has no {key} kernel for {what}: {rebuild(library)}.")
        total += len(names)
    device = key.lower()
    points = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    offset = torch.tensor([200], dtype=torch.int32)
    found = torch.ops.pointops.knn_query(3, *(each.to(device) for each in (points, offset, points, offset)))[0].cpu()
    right = torch.cdist(points.double(), points.double()).topk(3, largest=False).indices
    if not torch.equal(found.long(), right):
        raise Failed(f"pointops.knn_query gives wrong neighbours on {device}: {rebuild('pointops')}.")
    return f"{total} operators; knn_query agrees with all distances"


def check_request(_context: Context) -> str:
    """One request through the bundled model: reader, queue and worker, with the sample of the repository."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "service.cli", "segment", str(SAMPLE), "--output", "json", "-o", folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=REQUEST_S, cwd=HERE)
        files = list(Path(folder).glob("*.json"))
        if done.returncode != 0 or not files:
            raise Failed(f"The bundled model does not answer: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
        answer = json.loads(files[0].read_text(encoding="utf-8"))
    counts = {entry["name"]: entry["count"] for entry in answer["classes"] if entry["count"]}
    if len(counts) < 2:
        raise Failed(f"The bundled sample came back with the labels {counts}; at least two classes are in it.")
    return f"{len(answer['labels'])} points of {SAMPLE.name}: " + ", ".join(f"{n} {k}" for k, n in counts.items())


def load(module: str, remedy: str) -> Any:
    """Import a module, or say why that fails and what to do."""
    try:
        if module in EXTENSIONS:
            importlib.import_module("torch")  # our extensions use its libraries
        return importlib.import_module(module)
    except (ImportError, OSError, AssertionError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name in (module, module.split(".")[0]):
            raise Failed(f"{module} is not installed: {remedy}.") from error
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Failed(f"{module} does not load ({why}): it was built for another torch or CUDA; {remedy}.") from error


def binary(library: str) -> Path:
    """Return the file of a library's extension."""
    spec = util.find_spec(f"{library}._C") if util.find_spec(library) else None
    if spec is None or spec.origin is None:
        raise Failed(f"{library} is not installed: {rebuild(library)}.")
    return Path(spec.origin)


def need_code(name: str, own: gpu.Architectures, context: Context) -> None:
    """Fail when a binary has nothing that runs on this GPU."""
    capability = context.driver.capability or (0, 0)
    if own.run_on(capability):
        return
    if name == "torch":
        remedy = "Use another GPU, or set DEVICE=cpu and CUDA_CHECK=warn to serve on the CPU."
    else:
        remedy = f'Build it for this GPU: TORCH_CUDA_ARCH_LIST="{dotted(capability)}" {rebuild(name)}'
    there = f"{context.driver.name} is sm_{capability[0]}{capability[1]}"
    raise Failed(f"No kernel for this GPU: {there}, {name} has {own}. {remedy}")


def rebuild(library: str) -> str:
    """Return the command that builds a library anew."""
    return f"FORCE_CUDA=1 pip install --no-build-isolation --no-deps --force-reinstall ./libs/{library}"


def split_flags(flags: str) -> tuple[set[int], set[int]]:
    """Return machine code and PTX out of torch's "sm_80 sm_90 compute_90"."""
    sorts: dict[str, set[int]] = {"sm": set(), "compute": set()}
    for flag in flags.split():
        kind, _, number = flag.partition("_")
        sorts[kind].add(int("".join(filter(str.isdigit, number))))
    return sorts["sm"], sorts["compute"]


def takes_tensors(name: str) -> bool:
    """Return whether an operator has a tensor argument, by which its kernel is chosen."""
    import torch

    return any("Tensor" in str(each.type) for each in torch._C._get_schema(name, "").arguments)


def has_kernel(name: str, key: str) -> bool:
    """Return whether the dispatcher has a kernel of the operator for a device, or one for every device."""
    import torch

    keys = (key, "CompositeImplicitAutograd", "CompositeExplicitAutograd")
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, each) for each in keys)


def dotted(version: tuple[int, int] | None) -> str:
    """Return (9, 0) as "9.0"."""
    return "{}.{}".format(*version) if version else "?"


CHECKS: dict[str, Callable[[Context], str]] = {
    "environment": check_environment,
    "driver and GPU": check_gpu,
    "torch and CUDA": check_torch,
    "our extensions": check_extensions,
    "architectures": check_architectures,
    "spconv and cumm": check_spconv,
    "spconv forward": check_spconv_forward,
    "CPU kernels": lambda context: check_kernels(context, "CPU"),
    "CUDA kernels": lambda context: check_kernels(context, "CUDA"),
    "bundled model": check_request,
}
STARTUP = ("environment", "driver and GPU", "torch and CUDA", "our extensions", "architectures")


def run(names: Iterable[str], context: Context) -> list[Result]:
    """Run checks one after the other; an exception of any kind is a failure of its check alone."""
    results = []
    for name in names:
        started = time.perf_counter()
        try:
            status, detail = "pass", CHECKS[name](context)
        except Skipped as reason:
            status, detail = "skip", str(reason)
        except Failed as reason:
            status, detail = "fail", str(reason)
        except Exception as error:
            status, detail = "fail", f"{type(error).__name__}: {error}"
        results.append(Result(name, status, detail, round(time.perf_counter() - started, 2)))
    return results


def show(results: list[Result]) -> None:
    """Print the environment's report and the table."""
    print("\n".join(environment.lines(environment.report())), end="\n\n")
    width = max(len(result.name) for result in results)
    for result in results:
        print(f"{result.status.upper():<4}  {result.name:<{width}}  {result.seconds:>6.2f} s  {result.detail}")
    counts = {status: sum(result.status == status for result in results) for status in ("pass", "fail", "skip")}
    print(f"\n{counts['pass']} passed, {counts['fail']} failed, {counts['skip']} skipped")


def main() -> int:
    """Parse the options, run the checks, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--require-gpu", action="store_true", help="fail where a GPU is needed and there is none")
    parser.add_argument("--startup", action="store_true", help="only the quick checks, and print failures alone")
    parser.add_argument("--complete", action="store_true", help="check all packages of the conda environment")
    parser.add_argument("--without", default="", metavar="NAME,...", help="packages that were left out on purpose")
    parser.add_argument("--only", default="", metavar="CHECK,...", help=f"of these: {', '.join(CHECKS)}")
    options = parser.parse_args()
    chosen = [name.strip() for name in options.only.split(",") if name.strip()] or (
        STARTUP if options.startup else CHECKS
    )
    unknown = set(chosen) - CHECKS.keys()
    if unknown:
        parser.error(f"there is no check {', '.join(sorted(unknown))}; there are: {', '.join(CHECKS)}")
    left_out = frozenset(name.strip() for name in options.without.split(",") if name.strip())
    context = Context(options.require_gpu, options.complete, left_out, gpu.query())
    results = run(chosen, context)
    failed = [result for result in results if result.status == "fail"]
    if options.json:
        print(json.dumps({"environment": environment.report(), "checks": [asdict(each) for each in results]}, indent=2))
    elif options.startup:
        print("".join(f"{result.name}: {result.detail}\n" for result in failed), end="", file=sys.stderr)
    else:
        show(results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
