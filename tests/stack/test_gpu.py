"""What the driver and the binaries say: against a fake driver, hand-made fat binaries, torch and cuobjdump."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from service import gpu
from service.gpu import Architectures, Fault

ROOT = Path(__file__).resolve().parents[2]


def ask(library: Path, root: Path, **environment: str) -> gpu.Driver:
    """Ask a fake driver in a process of its own: a loaded library stays loaded."""
    code = "import sys, pathlib; from service import gpu; d = gpu.query(pathlib.Path(sys.argv[2]), sys.argv[1]);"
    code += "print(repr((d.fault.name if d.fault else None, d.detail, d.cuda, d.name, d.capability)))"
    command = [sys.executable, "-c", code, str(library), str(root)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    fault, *rest = eval(done.stdout)
    return gpu.Driver(Fault[fault] if fault else None, *rest)


def machine(folder: Path, *files: str) -> Path:
    """Make a root folder with these files in it."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def test_a_gpu(fake_driver: Path, tmp_path: Path) -> None:
    driver = ask(fake_driver / "libcuda.so.1", tmp_path, FAKE_CUDA_CAPABILITY="89", FAKE_CUDA_VERSION="12080")
    assert driver == gpu.Driver(None, "", (12, 8), "Fake GPU", (8, 9))


@pytest.mark.parametrize(
    ("environment", "fault", "sentence"),
    [
        ({"FAKE_CUDA_VERSION": "11040"}, Fault.TOO_OLD, "made for CUDA 11.4. Install driver 525.60.13 or newer"),
        ({"FAKE_CUDA_VERSION_STATUS": "1"}, Fault.FAILED, "does not tell its version"),
        ({"FAKE_CUDA_COUNT": "0"}, Fault.NO_DEVICE, "CUDA_VISIBLE_DEVICES"),
        ({"FAKE_CUDA_INIT": "100"}, Fault.NO_DEVICE, "sees no GPU"),
        ({"FAKE_CUDA_INIT": "803"}, Fault.FAILED, "different versions (CUresult 803)"),
        ({"FAKE_CUDA_INIT": "999"}, Fault.FAILED, "nvidia-smi"),
    ],
)
def test_driver_faults(
    fake_driver: Path, tmp_path: Path, environment: dict[str, str], fault: Fault, sentence: str
) -> None:
    driver = ask(fake_driver / "libcuda.so.1", tmp_path, **environment)
    assert driver.fault is fault
    assert sentence in driver.detail


def test_library_without_device_in_a_container(fake_driver: Path, tmp_path: Path) -> None:
    driver = ask(fake_driver / "libcuda.so.1", machine(tmp_path, ".dockerenv"), FAKE_CUDA_COUNT="0")
    assert driver.fault is Fault.NO_DEVICE
    assert "--gpus all" in driver.detail


@pytest.mark.parametrize(
    ("files", "fault", "sentence"),
    [
        ((), Fault.NO_DRIVER, "no NVIDIA driver on this machine"),
        ((".dockerenv",), Fault.NO_DRIVER, "no NVIDIA driver on the host of this container"),
        ((".dockerenv", "proc/driver/nvidia/version"), Fault.NOT_PASSED, "--gpus all"),
        (("run/.containerenv", "proc/driver/nvidia/version"), Fault.NOT_PASSED, "--gpus all"),
        (("proc/driver/nvidia/version",), Fault.NO_DRIVER, "libnvidia-compute"),
    ],
)
def test_no_library(tmp_path: Path, files: tuple[str, ...], fault: Fault, sentence: str) -> None:
    driver = gpu.query(machine(tmp_path, *files), "libcuda-that-is-not-there.so.1")
    assert driver.fault is fault
    assert sentence in driver.detail


def entry(kind: int, architecture: int, content: bytes) -> bytes:
    header = struct.pack("<HHIQ", kind, 0x101, 64, len(content)) + bytes(12) + struct.pack("<I", architecture)
    return header.ljust(64, b"\0") + content


def elf(fatbin: bytes) -> bytes:
    """Return an ELF file that has nothing but the section .nv_fatbin and the section names."""
    names = b"\0.nv_fatbin\0.shstrtab\0"
    fatbin_at = 64
    names_at = fatbin_at + len(fatbin)
    table_at = (names_at + len(names) + 7) // 8 * 8
    sections = [(0, 0, 0), (1, fatbin_at, len(fatbin)), (12, names_at, len(names))]
    table = b"".join(struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, at, size, 0, 0, 8, 0) for name, at, size in sections)
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, table_at, 0, 64, 0, 0, 64, 3, 2
    )
    return (head + fatbin + names).ljust(table_at, b"\0") + table


def container(*entries: bytes) -> bytes:
    content = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def test_architectures_of_a_binary(tmp_path: Path) -> None:
    file = tmp_path / "lib.so"
    first = container(entry(2, 75, b"x" * 24), entry(2, 89, b"y" * 8), entry(1, 90, b"p" * 16))
    file.write_bytes(elf(first + bytes(24) + container(entry(2, 90, b"z" * 8))))
    found = gpu.architectures(file)
    assert found == Architectures(frozenset({75, 89, 90}), frozenset({90}))
    assert str(found) == "sm_75, sm_89, sm_90, compute_90"


def test_no_cuda_code(tmp_path: Path) -> None:
    import _ctypes

    assert gpu.architectures(Path(_ctypes.__file__)) == Architectures(frozenset(), frozenset())
    assert str(gpu.architectures(Path(_ctypes.__file__))) == "no CUDA code"


@pytest.mark.parametrize("content", [b"MZ" * 100, b"\x7fELF\x02\x01", elf(container(entry(2, 75, b"")))[:-100]])
def test_damaged_binary(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "lib.so"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="ELF"):
        gpu.architectures(file)


def test_spconv_has_what_its_makers_built(tmp_path: Path) -> None:
    """The wheel for CUDA 12.4 has code from Pascal to Hopper; cuobjdump, where it is, says the same of it."""
    from importlib.util import find_spec

    spec = find_spec("spconv")
    if spec is None or spec.origin is None:
        pytest.skip("spconv is not installed")
    file = next(Path(spec.origin).parent.glob("core_cc*.so"))
    found = gpu.architectures(file)
    assert {60, 70, 75, 80, 86, 89, 90} <= found.machine
    tool = shutil.which("cuobjdump")
    if tool is not None:
        said = subprocess.run([tool, "--list-elf", file], capture_output=True, text=True, check=True).stdout
        import re

        assert {int(code) for code in re.findall(r"sm_(\d+)", said)} == found.machine


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((8, 9), True), ((8, 6), False), ((8, 0), False), ((9, 0), True), ((12, 0), True), ((7, 5), False)],
)
def test_what_runs_where(capability: tuple[int, int], runs: bool) -> None:
    """8.9 runs on 8.9 alone of its generation; PTX of 9.0 on all that is newer."""
    assert Architectures(frozenset({89}), frozenset({90})).run_on(capability) is runs


def test_older_machine_code_runs_on_a_newer_minor_version() -> None:
    assert Architectures(frozenset({80}), frozenset()).run_on((8, 9))
    assert not Architectures(frozenset({80}), frozenset()).run_on((9, 0))
    assert not Architectures(frozenset(), frozenset()).run_on((9, 0))
