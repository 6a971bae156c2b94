"""The images' files: linted, valid by their schemas, and as an operator expects them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ("Dockerfile.gpu", "Dockerfile.pytorch")


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def check(*command: str | Path) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_dockerfiles_are_linted() -> None:
    check(tool("hadolint"), *DOCKERFILES)


def test_compose_and_workflows_by_their_schemas(tmp_path: Path) -> None:
    schema = tool("check-jsonschema")
    # The schema's reader does not know the tag with which compose takes something away.
    override = tmp_path / "cpu.yml"
    override.write_text(read("docker-compose.cpu.yml").replace("!reset ", ""))
    check(schema, "--builtin-schema", "vendor.compose-spec", "docker-compose.ml.yml", override)
    check(
        schema, "--builtin-schema", "vendor.github-workflows", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    )


def test_compose_as_operators_expect_it() -> None:
    yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")
    service = yaml.safe_load(read("docker-compose.ml.yml"))["services"]["ml_service"]
    assert service["ports"] == ["${PUBLISH:-127.0.0.1}:${HOST_PORT:-5001}:5001"]
    assert service["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    ]
    assert service["deploy"]["resources"]["limits"].keys() >= {"cpus", "memory", "pids"}
    assert service["healthcheck"]["start_period"]
    assert service["restart"] == "unless-stopped"
    assert any(volume.endswith(":/app/models") for volume in service["volumes"])
    assert service["environment"].keys() >= {"API_KEYS", "API_KEYS_FILE"}
    # What is published elsewhere than on this machine asks for a key, which outlives the container.
    assert service["environment"]["PUBLISHED"] == "${PUBLISH:-127.0.0.1}"
    assert f"state:{service['environment']['STATE_DIR']}" in service["volumes"]
    assert "seccomp" not in read("docker-compose.ml.yml")
    assert "reservations: !reset" in read("docker-compose.cpu.yml")


@pytest.mark.parametrize("file", DOCKERFILES)
def test_what_is_copied_is_in_the_context(file: str) -> None:
    allowed = [line[1:].split("/")[0] for line in read(".dockerignore").splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", read(file), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names <= set(allowed)
    assert all((ROOT / name).exists() for name in names)


@pytest.mark.parametrize("file", DOCKERFILES)
def test_downloads_can_be_replaced(file: str) -> None:
    """Each address stands in an ARG, or belongs to a file that pip reads through one."""
    for line in read(file).splitlines():
        if "://" in line and not line.lstrip().startswith("#"):
            assert re.match(r"ARG |.*insteadOf|.*127\.0\.0\.1", line), line
    assert re.search(r"^ARG BASE_IMAGE=.*\nFROM \$\{BASE_IMAGE\}|^ARG BASE_IMAGE=", read(file), re.MULTILINE)


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        (
            "Dockerfile.gpu",
            (
                "USER 10001",
                "HEALTHCHECK",
                "tini",
                "LABEL",
                "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True",
                "SPCONV_DISABLE_JIT=1",
                "CUMM_DISABLE_JIT=1",
                "CUDA_HOME=/usr/local/cuda",
                "CONDA_DEFAULT_ENV=",
                "FORCE_CUDA=1",
                "TORCH_CUDA_ARCH_LIST",
                "--mount=type=cache",
                "sha256sum -c",
            ),
        ),
        ("Dockerfile.pytorch", ("USER 10001", "HEALTHCHECK", "tini", "EXPOSE 7860", "ARG FLASH_ATTN_VERSION=")),
    ],
)
def test_what_the_images_are_asked_to_have(file: str, lines: tuple[str, ...]) -> None:
    text = read(file)
    assert not [line for line in lines if line not in text]
    assert "latest" not in text


def test_flash_attention_comes_first() -> None:
    text = read("Dockerfile.pytorch")
    assert text.index("flash-attn==") < text.index("-r pytorch-pip.txt")


def test_documents_name_files_that_exist() -> None:
    for name in ("README_CONDA_BUILD.md", "README_pytorch_approach.md"):
        for link in re.findall(r"\]\(([^)#]+)\)", read(name)):
            assert (ROOT / link).exists(), link
        for script in re.findall(r"\./([\w./]+\.(?:sh|py))", read(name)):
            assert (ROOT / script).exists(), script
