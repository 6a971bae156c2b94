"""Checkpoints: what training leaves is loaded, whatever might run or mislead is refused, and nothing of it happens."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.errors import UnusableModel
from service.models import checkpoint
from tests.models import experiments


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as Pointcept's CheckpointSaver writes it."""
    path = tmp_path_factory.mktemp("saved") / "model_best.pth"
    torch.save(experiments.state(torch.nn.Linear(300, 40)), path)
    return path


def _refused(path: Path, what: str) -> None:
    with pytest.raises(UnusableModel, match=what) as caught:
        checkpoint.load(path)
    assert str(path) in caught.value.detail


def test_what_training_saves_is_loaded_without_the_prefix_and_with_numpys_numbers(saved: Path) -> None:
    stored = checkpoint.load(saved)
    assert {name: tuple(value.shape) for name, value in stored.weights.items()} == {"weight": (40, 300), "bias": (40,)}
    original = torch.load(saved, weights_only=False)["state_dict"]
    assert all(torch.equal(value, original[f"module.{name}"]) for name, value in stored.weights.items())
    assert stored.about == {"epoch": 100, "best_metric_value": 0.776}
    assert stored.config is None


def test_schedulers_of_older_torch_are_passed_over(tmp_path: Path) -> None:
    # Up to torch 2.0 OneCycleLR's state holds a method of the scheduler, and with it the optimizer.
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(torch.optim.AdamW(parameters), max_lr=0.1, total_steps=10)
    contents = experiments.state(torch.nn.Linear(2, 2))
    contents["scheduler"] = {"anneal_func": scheduler.get_lr, "total_steps": 10}
    torch.save(contents, tmp_path / "old.pth")
    assert b"getattr" in (tmp_path / "old.pth").read_bytes()
    assert set(checkpoint.load(tmp_path / "old.pth").weights) == {"weight", "bias"}


def test_weights_of_other_precision_and_shared_memory_are_loaded(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    weights = {
        "half": whole.half(),
        "brain": whole.bfloat16(),
        "double": whole.double(),
        "count": torch.tensor(3),
        "view": whole[2:4],
        "turned": whole.view(2, 3).T,
        "same": whole,
        "none": torch.zeros(0, 3),
    }
    torch.save({"state_dict": weights, "config": {"model": {"type": "X", "order": ("z",)}}}, tmp_path / "x.pth")
    stored = checkpoint.load(tmp_path / "x.pth")
    assert all(torch.equal(stored.weights[name], value) for name, value in weights.items())
    assert stored.weights["brain"].dtype == torch.bfloat16
    assert stored.config == {"model": {"type": "X", "order": ["z"]}}


class _Payload:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, run: Callable[..., Any], *arguments: Any) -> None:
        self._call = (run, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


@pytest.mark.parametrize(
    ("where", "run"), [("state_dict", "system"), ("scheduler", "eval"), ("config", "exec"), ("inside", "system")]
)
def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path, where: str, run: str) -> None:
    made = tmp_path / "made"
    payload = {
        "system": _Payload(os.system, f"touch {made}"),
        "eval": _Payload(eval, f"open({str(made)!r}, 'w')"),
        "exec": _Payload(exec, f"open({str(made)!r}, 'w')"),
    }[run]
    contents: dict[str, Any] = {"state_dict": OrderedDict(weight=torch.ones(2))}
    if where == "inside":
        contents["state_dict"]["bias"] = payload
    else:
        contents[where] = payload
    torch.save(contents, tmp_path / "payload.pth")
    _refused(tmp_path / "payload.pth", rf"asks for (posix|nt|builtins)\.{run}, which is neither a number nor a tensor")
    assert not made.exists()


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "model_best.pth"))
    _refused(tmp_path / "model_best.pth", "is a TorchScript archive, which is code")


def test_a_torchscript_archive_behind_another_index_is_refused_by_what_torch_sees(saved: Path, tmp_path: Path) -> None:
    from service.models import checkpoint_process

    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pth"))
    with pytest.raises(checkpoint_process.Refusal, match="TorchScript"):
        checkpoint_process.read(str(tmp_path / "script.pth"))


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(saved: Path, tmp_path: Path, part: float) -> None:
    whole = saved.read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: int(len(whole) * part)])
    _refused(tmp_path / "cut.pth", "is truncated or damaged")


def test_a_damaged_checkpoint_is_refused(saved: Path, tmp_path: Path) -> None:
    damaged = bytearray(saved.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.pth").write_bytes(damaged)
    _refused(tmp_path / "damaged.pth", "the checksum of its record .* is wrong")


def test_files_of_other_kinds_are_named(saved: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "tar.pth", "w") as archive:
        archive.add(saved, "weights")
    _refused(tmp_path / "tar.pth", "is a tar archive")
    torch.save({"state_dict": {}}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    _refused(tmp_path / "old.pth", "is a bare pickle, as torch wrote before 1.6")
    (tmp_path / "lfs.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    _refused(tmp_path / "lfs.pth", "is a pointer of Git LFS")
    (tmp_path / "empty.pth").write_bytes(b"")
    _refused(tmp_path / "empty.pth", "is empty")
    (tmp_path / "text.pth").write_bytes(b"<html>")
    _refused(tmp_path / "text.pth", "is no checkpoint")
    _refused(tmp_path / "nothing.pth", "There is no checkpoint")
    _refused(tmp_path, "There is no checkpoint")


def _zip(path: Path, records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, contents in records.items():
            archive.writestr(name, contents)
    return path


def test_archives_that_torch_would_not_write_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    _refused(_zip(path, {"x/data.pkl": b".", "x/code/a.py": b""}), "TorchScript")
    _refused(_zip(path, {"x/data.pkl": b".", "x/evil.so": b""}), "has a record 'x/evil.so'")
    _refused(_zip(path, {"x/data.pkl": b".", "x/../data/0": b""}), r"has a record 'x/\.\./data/0'")
    _refused(_zip(path, {"x/data.pkl": b".", "y/data/0": b""}), "lacks the record|must be what torch.save writes")
    _refused(_zip(path, {"x/version": b"3"}), r"lacks the record data\.pkl")
    _refused(_zip(path, {"x/data.pkl": b"." * 10_000_000}, zipfile.ZIP_DEFLATED), "compressed records")
    _refused(_zip(path, {"x/data.pkl": b"\x80\x04\x95", "x/version": b"3"}), "cannot be loaded")


def test_contents_that_are_no_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.models import checkpoint_process

    monkeypatch.setattr(torch.jit, "load", torch.jit.load)  # which `read` replaces
    path = tmp_path / "x.pth"
    for contents, what in (
        ([1, 2], "holds a list"),
        ({}, "has no `state_dict`"),
        ({"net": {"a": torch.ones(1)}}, "has no `state_dict`; it has net"),
        ({"state_dict": {"a": 1}}, "its weight 'a' is no dense tensor"),
        ({"state_dict": {"a": torch.ones(2).to_sparse()}}, "is no dense tensor"),
        ({"state_dict": {"a": torch.ones(1).expand(1 << 40)}}, "is no dense tensor"),
        ({"state_dict": {"a": torch.ones(1)}, "config": [1]}, "its `config` is a list"),
        ({"state_dict": {"a": torch.ones(1)}, "config": {"x": torch.ones(1)}}, "not made of plain values"),
        ({"state_dict": {"a": torch.ones(1)}, "config": defaultdict(int)}, "not made of plain values"),
    ):
        torch.save(contents, path)
        with pytest.raises(checkpoint_process.Refusal, match=what):
            checkpoint_process.read(str(path))
    # What `read` refuses is what the process says, whatever it is.
    _refused(path, what)


def test_a_digest_is_the_files_sha256(saved: Path) -> None:
    import hashlib

    assert checkpoint.digest(saved) == hashlib.sha256(saved.read_bytes()).hexdigest()


def test_numpys_numbers_of_every_kind_pass(tmp_path: Path) -> None:
    numbers = (np.float32(0.5), np.int64(3), np.bool_(True), torch.tensor(0.5), None)
    contents = {"state_dict": {"a": torch.ones(1)}, "best_metric_value": np.nan, "epoch": np.int64(7), "more": numbers}
    torch.save(contents, tmp_path / "x.pth")
    assert checkpoint.load(tmp_path / "x.pth").about == {"epoch": 7}
