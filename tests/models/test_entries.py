"""What MODELS and MODELS_DIR name, and under which names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.errors import UnusableModel
from service.models.entries import Entry, entries


@dataclass
class Choice:
    """The settings that entries are made of."""

    models: str = "parcels"
    models_dir: str = ""


def _experiment(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.py").write_text("")
    return folder


def test_names_folders_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _experiment(tmp_path / "exp" / "scannet" / "semseg-pt-v3m1-0-base")
    other = _experiment(tmp_path / "exp" / "s3dis" / "spunet")
    (other / "model").mkdir()
    (other / "model" / "model_last.pth").touch()
    (tmp_path / "odd name.pth").touch()
    monkeypatch.chdir(tmp_path)
    text = f"parcels, exp/scannet/semseg-pt-v3m1-0-base,{other}/model/model_last.pth, odd name.pth,rooms={folder}"
    assert entries(Choice(text)) == (
        Entry("parcels", None),
        Entry("semseg-pt-v3m1-0-base", folder),
        Entry("spunet", other / "model" / "model_last.pth"),
        Entry("odd-name", tmp_path / "odd name.pth"),
        Entry("rooms", folder),
    )


def test_a_generation_stands_behind_an_at(tmp_path: Path) -> None:
    folder = _experiment(tmp_path / "a@home")
    found = entries(Choice(f"{folder}@v1.5.1,old={folder}@v1.5.2,plain={folder}"))
    assert found == (Entry("a-home", folder, "v1.5.1"), Entry("old", folder, "v1.5.2"), Entry("plain", folder))


def test_a_folder_of_experiments_is_served_whole_but_not_the_code_inside_one(tmp_path: Path) -> None:
    one = _experiment(tmp_path / "scannet" / "ptv3")
    # Training copies Pointcept itself into the experiment.
    _experiment(one / "code" / "pointcept" / "utils")
    two = _experiment(tmp_path / "s3dis" / "ptv3")
    _experiment(tmp_path / ".hidden" / "old")
    found = entries(Choice("", str(tmp_path)))
    assert found == (Entry("ptv3", two), Entry("scannet-ptv3", one))
    assert entries(Choice("", str(one))) == (Entry("ptv3", one),)


def test_experiments_of_the_folder_can_be_named_and_come_first(tmp_path: Path) -> None:
    one, two = _experiment(tmp_path / "a"), _experiment(tmp_path / "b")
    found = entries(Choice("b@v1.5.1,parcels", str(tmp_path)))
    assert found == (Entry("b", two, "v1.5.1"), Entry("parcels", None), Entry("a", one))


def test_a_name_that_nothing_has_stays_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert entries(Choice("parcel")) == (Entry("parcel", None),)
    assert entries(Choice("exp/nothing")) == (Entry("nothing", Path(os.path.abspath("exp/nothing"))),)


def test_no_model_and_no_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"The models folder .*absent \(MODELS_DIR\) is not there"):
        entries(Choice("", str(tmp_path / "absent")))
    with pytest.raises(UnusableModel, match=r"No model is named: MODELS is empty, and MODELS_DIR .* has no experiment"):
        entries(Choice("", str(tmp_path)))
    with pytest.raises(UnusableModel, match="not set"):
        entries(Choice(" , "))


def test_the_bundled_model_is_not_served_beside_a_folder_unless_it_is_named(tmp_path: Path) -> None:
    from service.settings import Settings

    assert Settings().models == "parcels"
    assert Settings(models_dir=str(tmp_path)).models == ""
    assert Settings(models_dir=str(tmp_path), models="parcels").models == "parcels"
