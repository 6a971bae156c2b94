"""Configurations are read without being run: what they may hold, what is refused and where, and how bases merge."""

from __future__ import annotations

import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import UnusableModel
from service.models import config, conventions
from tests.models import experiments

RICH = """
'''A docstring.'''
base_lr = 0.004
lr_decay = 0.9
model = dict(type="X", backbone=dict(enc_depths=(3, 3, 12, 3)), **dict(extra=None))
dec_depths = model["backbone"]["enc_depths"]
param_dicts = [
    dict(
        keyword=f"enc{e}.block{b}.",
        lr=base_lr * lr_decay ** (sum(dec_depths) - sum(dec_depths[:e]) - b - 1),
    )
    for e in range(len(dec_depths))
    for b in range(dec_depths[e])
]
del dec_depths
scheduler = dict(max_lr=[base_lr] + [g["lr"] for g in param_dicts], angle=[-1 / 64, 1 / 64], wide=[0.2] * 3)
parts = ["Airplane_{}".format(i) for i in range(4)] + ["Bag_{}".format(i) for i in range(2)]
grid = {"0": -0.05, 1: 2**-3, None: 7 // 2, True: 7 % 4}
nothing = not True
both = again = (1, *[2, 3], (), [], {}, "a" "b", "ab" * 2, tuple([1]), list((2,)), list())
"""


def test_it_reads_what_python_would_compute(tmp_path: Path) -> None:
    file = tmp_path / "config.py"
    file.write_text(RICH)
    run = {key: value for key, value in runpy.run_path(str(file)).items() if not key.startswith("__")}
    values, notes = config.read(file)
    assert values == run
    assert notes == ()
    assert [type(value) for value in values["both"]] == [type(value) for value in run["both"]]


def test_a_dumped_configuration_is_what_python_reads() -> None:
    text = experiments.config()
    run: dict[str, Any] = {}
    exec(text, run)
    del run["__builtins__"]
    assert config.read_text(text, "config.py") == run


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4)
    | st.lists(inner, max_size=4).map(tuple)
    | st.dictionaries(st.text(max_size=8) | st.integers(0, 99), inner, max_size=4),
    max_leaves=30,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(_values)
def test_whatever_python_writes_down_is_read_back(value: Any) -> None:
    found = config.read_text(f"x = {value!r}", "config.py")["x"]
    assert found == value
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a = 1\nimport os", "line 2 an import"),
        ("from os import system", "line 1 an import of os.system"),
        ("from pointcept.engines.defaults import default_setup", "an import of pointcept.engines.defaults"),
        ("from . import secrets", "line 1 an import"),
        ("x = open('{target}', 'w')", "a call of `open`"),
        ("x = __import__('os').system('touch {target}')", "a call of"),
        ("x = lambda: 1", "`lambda: 1`"),
        ("x = (lambda: open('{target}', 'w'))()", "a call of"),
        ("import os\nos.system('touch {target}')", "line 1 an import"),
        ("x = 'a'.upper()", "a call of"),
        ("x = [].append(1)", "a call of"),
        ("x = ().__class__.__bases__", "line 1 `().__class__.__bases__`"),
        ("x = '{{0.__class__}}'.format(1)", "only {} is replaced"),
        ("x = f'{{1!r}}'", "only plain {values}"),
        ("x = eval('1')", "a call of `eval`"),
        ("exec('1')", "a call of `exec`"),
        ("x = dict", "the name 'dict', which is not set"),
        ("x = __builtins__", "the name '__builtins__'"),
        ("def f():\n    pass", "a statement (FunctionDef)"),
        ("class C:\n    pass", "a statement (ClassDef)"),
        ("if 1:\n    x = 1", "a statement (If)"),
        ("for i in range(3):\n    x = i", "a statement (For)"),
        ("while True:\n    pass", "a statement (While)"),
        ("with x as y:\n    pass", "a statement (With)"),
        ("try:\n    x = 1\nexcept Exception:\n    pass", "a statement (Try)"),
        ("x = 1\nx += 1", "line 2 a statement (AugAssign)"),
        ("x = {{}}\nx['a'] = 1", "line 2 an assignment to `x['a']`"),
        ("x = y", "line 1 the name 'y', which is not set"),
        ("1 + 1", "on its own"),
        ("x = 1 / 0", "cannot be computed"),
        ("x = 'a' + 1", "cannot be computed"),
        ("x = -'a'", "is not a number"),
        ("x = [1][2]", "does not exist"),
        ("x = dict(**[1])", "where a dict is wanted"),
        ("x = {{1, 2}}", "`{1, 2}`"),
        ("x = 1 if True else 2", "only values"),
        ("x = [i for i in range(3) if i]", "a comprehension"),
        ("x = (-1) ** 0.5", "a number out of bounds"),
        ("x = b'a'", "only values"),
        ("x = range(0, 9, 0)", "cannot be computed"),
        ("del x", "a `del` of `x`"),
    ],
)
def test_code_is_an_error_with_its_line_and_is_not_run(tmp_path: Path, text: str, what: str) -> None:
    target = tmp_path / "made"
    file = tmp_path / "config.py"
    file.write_text(text.replace("{target}", str(target)).replace("{{", "{").replace("}}", "}"))
    with pytest.raises(UnusableModel) as caught:
        config.read(file)
    assert what in caught.value.detail
    assert str(file) in caught.value.detail
    assert not target.exists()


@pytest.mark.parametrize(
    "text",
    [
        "x = [0] * 10**12",
        "x = 'a' * 10**9",
        "x = 10 ** 10 ** 10",
        "x = 2 ** 100000",
        "x = list(range(10**12))",
        "x = [0] * 1000\ny = [x] * 1000\nz = [y] * 1000",
        "a = [[0] * 100] * 100\nb = [a, a, a, a, a, a, a, a, a, a]\nc = [b, b, b, b, b, b, b, b, b, b]",
        "x = [i for i in range(1000) for j in range(1000)]",
        "x = 'a' * 60000\ny = x + x",
        "x = 9 ** 80 * 9 ** 80",
    ],
)
def test_a_few_letters_cannot_make_a_huge_value(text: str) -> None:
    with pytest.raises(UnusableModel, match=r"out of bounds|more values"):
        config.read_text(text, "config.py")


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 150 + "]" * 150,
        "x = " + "[" * 5000 + "]" * 5000,
        "x = " + "-" * 200_000 + "1",
        "x = 1" + " + 1" * 200_000,
        "x = f'{1" + " + 1" * 200_000 + "}'",
        "x = a" + "[0]" * 50_000,
        "x = " + "1 if 1 else " * 50_000 + "1",
        "x = " + "a." * 100_000 + "b",
        "x = " + "(lambda: " * 90 + "1" + ")" * 90,
        "x = " + "not " * 100_000 + "1",
        "x = " + "f(" * 190 + ")" * 190,
        "x = 'a",
        "x = 1\x00",
    ],
)
def test_deep_or_broken_text_ends_no_process(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.py"
    file.write_text(text)
    code = f"""
        from pathlib import Path
        from service.errors import UnusableModel
        from service.models import config
        try:
            config.read(Path({str(file)!r}))
        except UnusableModel as error:
            print("refused", len(error.detail) < 1000)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "refused True"), done.stderr[-500:]


def test_bases_merge_as_pointcept_merges_them(tmp_path: Path) -> None:
    (tmp_path / "_base_").mkdir()
    (tmp_path / "_base_" / "default_runtime.py").write_text("epoch = 100\nhooks = [dict(type='A')]\n")
    (tmp_path / "_base_" / "data.py").write_text("data = dict(names=['a'], train=dict(x=1, y=2), val=dict(x=1))\n")
    (tmp_path / "scannet").mkdir()
    file = tmp_path / "scannet" / "tiny.py"
    file.write_text(
        "_base_ = ['../_base_/default_runtime.py', '../_base_/data.py']\nepoch = 50\nhooks = []\n"
        "data = dict(num_classes=1, train=dict(y=3), val=dict(_delete_=True, z=1))\n"
    )
    values, notes = config.read(file)
    assert values == {
        "epoch": 50,
        "hooks": [],
        "data": {"names": ["a"], "num_classes": 1, "train": {"x": 1, "y": 3}, "val": {"z": 1}},
    }
    assert notes == ()


def test_a_base_of_settings_for_training_alone_may_be_absent(tmp_path: Path) -> None:
    file = tmp_path / "config.py"
    file.write_text("_base_ = '../_base_/default_runtime.py'\nepoch = 1\n")
    values, notes = config.read(file)
    assert values == {"epoch": 1}
    assert "default_runtime.py is absent" in notes[0]


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"config.py": "_base_ = 'other.py'"}, r"There is no configuration .*other\.py"),
        ({"config.py": "_base_ = 'config.py'"}, "has itself as a base"),
        ({"config.py": "_base_ = 'a.py'", "a.py": "_base_ = 'config.py'"}, "has itself as a base"),
        ({"config.py": "_base_ = '/etc/hosts.py'"}, "a base is the relative path of a .py file"),
        ({"config.py": "_base_ = '../../etc/passwd'"}, "a base is the relative path of a .py file"),
        ({"config.py": "_base_ = ['a.py', 'b.py']", "a.py": "x = 1", "b.py": "x = 2"}, "both set x"),
        ({"config.py": "_base_ = 'a.py'\nx = dict(y=1)", "a.py": "x = 2"}, "sets x to a dict, and its base to a int"),
        ({"config.py": "_base_ = 'a.py'", "a.py": "\nimport os"}, r"a\.py has in line 2 an import"),
        ({"config.py": "_base_ = ['a.py'] * 20", "a.py": ""}, "more than 16 base files"),
        ({"config.py": "x = 1" + " " * (1 << 20)}, "is larger than"),
        ({}, "There is no configuration"),
    ],
)
def test_bases_and_files_that_cannot_be_are_named(tmp_path: Path, files: dict[str, str], what: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UnusableModel, match=what):
        config.read(tmp_path / "config.py")


def test_the_class_names_that_pointcepts_configurations_import_are_known() -> None:
    text = """
        from pointcept.datasets.preprocessing.scannet.meta_data.scannet200_constants import (
            CLASS_LABELS_200,
        )
        names = CLASS_LABELS_200
    """
    names = config.read_text(textwrap.dedent(text), "config.py")["names"]
    assert (len(names), names[0], names[-1]) == (200, "wall", "mattress")
    assert names == conventions.names("ScanNet200")
