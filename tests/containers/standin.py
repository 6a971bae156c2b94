"""Makes a stand-in for Miniforge's installer, for machines that reach PyPI but no conda channel.

    python standin.py PREFIX INSTALLER [NAME,...]

PREFIX is a CPython that can be moved (the stand-in makes it so); INSTALLER is written. Like the real one it takes
`-b -p DIR` and leaves conda, mamba and etc/profile.d/conda.sh there. `conda env create -f FILE` makes the environment
from pip, with the same versions as the file's and with its pip part as it is; what has no meaning there (pytorch-cuda,
mkl) is passed over, and so are the packages named on the command line, which PyPI does not have; both are printed.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HEAD = """#!/usr/bin/env bash
# A stand-in for Miniforge's installer; see tests/containers/standin.py of PointServe.
set -euo pipefail
prefix=$HOME/miniforge3
while getopts bp: option; do
  case $option in
    p) prefix=$OPTARG ;;
    *) ;;
  esac
done
mkdir -p "$prefix"
tail -n +__LINES__ "$0" | tar -xz -C "$prefix"
sed -i "s|__PREFIX__|$prefix|g" "$prefix/bin/conda" "$prefix/bin/mamba" "$prefix/etc/profile.d/conda.sh"
exit 0
"""

CONDA_SH = """# The part of conda's shell function that scripts use.
conda() {
  case ${1:-} in
    activate)
      if [ ! -x "__PREFIX__/envs/${2:-base}/bin/python" ]; then
        echo "EnvironmentNameNotFound: Could not find conda environment: ${2:-base}" >&2
        return 1
      fi
      export CONDA_PREFIX="__PREFIX__/envs/$2" CONDA_DEFAULT_ENV="$2"
      export PATH="$CONDA_PREFIX/bin:__PREFIX__/condabin:$PATH"
      ;;
    deactivate) unset CONDA_PREFIX CONDA_DEFAULT_ENV ;;
    *) "__PREFIX__/bin/conda" "$@" ;;
  esac
}
"""

CONDA = '''#!__PREFIX__/base/bin/python3
"""A stand-in for conda and mamba: it makes environments from pip."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PREFIX = Path("__PREFIX__")
LEFT_OUT = set("__LEFT_OUT__".split(",")) - {""}
PIP_NAMES = {"pytorch": "torch"}
NOT_FROM_PIP = {"python", "pip", "pytorch-cuda", "mkl"}


def sections(path):
    """Yield (key, lines) of the top-level keys of an environment file, comments taken off."""
    key, lines = None, []
    for line in path.read_text().splitlines():
        line = re.sub(r"(^|\\s)#.*", "", line).rstrip()
        if not line:
            continue
        if not line[0].isspace():
            if key:
                yield key, lines
            key, lines = line.split(":")[0], [line]
        else:
            lines.append(line.strip())
    yield key, lines


def create(path):
    parts = dict(sections(path))
    name = parts["name"][0].split(":")[1].strip()
    env = PREFIX / "envs" / name
    print("stand-in: making", env, "from pip", flush=True)
    shutil.copytree(PREFIX / "base", env, symlinks=True)
    python = str(env / "bin" / "python")
    for script in (env / "bin").iterdir():  # pip's names the place where the interpreter was before
        if script.is_file() and not script.is_symlink() and script.read_bytes()[:2] == b"#!":
            script.write_text(f"#!{python}\\n" + script.read_text().split("\\n", 1)[1])
    conda, pip, into = [], [], None
    for line in parts["dependencies"][1:]:
        entry = line.removeprefix("- ")
        into = pip if entry == "pip:" else into if into is not None else conda
        if entry != "pip:":
            into.append(entry)
    wanted = []
    for spec in conda:
        package, operator, version = re.fullmatch(r"([a-z0-9-]+)([=<>]*)(.*)", spec).groups()
        if package == "python":
            found = ".".join(map(str, sys.version_info[:2]))
            if found != version:
                sys.exit(f"stand-in: this is Python {found}, the file wants {version}")
        if package in NOT_FROM_PIP:
            print("stand-in: passed over:", spec, flush=True)
        else:
            wanted.append(PIP_NAMES.get(package, package) + operator.replace("=", "==", operator == "=") + version)
    install(python, path.parent, wanted, [])
    install(python, path.parent, [], pip)


def install(python, folder, packages, lines):
    """Install as conda does: from a requirements file beside the environment's, without what is left out."""
    file = folder / f"condaenv.{os.getpid()}.requirements"
    written = []
    for line in lines:
        if line.startswith("-r "):
            written += (folder / line[3:]).read_text().splitlines()
        else:
            written.append(line)
    kept = []
    for line in written:
        if re.split(r"[=<> ]", line)[0] in LEFT_OUT:
            print("stand-in: left out:", line, flush=True)
        elif LEFT_OUT and line.startswith(("--find-links", "--only-binary")):
            print("stand-in: left out:", line, flush=True)
        else:
            kept.append(line)
    file.write_text("\\n".join(packages + kept) + "\\n")
    subprocess.run([python, "-m", "pip", "install", "-U", "-r", file.name], cwd=folder, check=True)
    file.unlink()


def main(arguments):
    own = Path(sys.argv[0]).name
    if arguments[:1] == ["--version"]:
        print("conda 0 (a stand-in)" if own == "conda" else "0 (a stand-in)")
    elif arguments[:3] == ["env", "create", "-f"]:
        create(Path(arguments[3]).resolve())
    elif arguments[:2] == ["env", "list"]:
        print("\\n".join(sorted(str(path) for path in (PREFIX / "envs").glob("*"))))
    elif arguments[:1] in (["clean"], ["config"], ["info"]):
        print("stand-in: nothing to do for", *arguments)
    else:
        sys.exit(f"stand-in: {own} {' '.join(arguments)} is not understood")


main(sys.argv[1:])
'''


def main() -> None:
    """Write the installer."""
    prefix, installer = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    left_out = sys.argv[3] if len(sys.argv) > 3 else ""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        skip = ("--exclude=__pycache__", "--exclude=test", "--exclude=tkinter", "--exclude=idlelib", "--exclude=*.a")
        base.mkdir()
        packed = subprocess.run(
            ["tar", "-C", prefix, *skip, "-c", "bin", "lib", "include"], stdout=subprocess.PIPE, check=True
        )
        subprocess.run(["tar", "-C", base, "-x"], input=packed.stdout, check=True)
        python = next(
            path for path in (base / "bin").glob("python3.*") if not path.is_symlink() and "config" not in path.name
        )
        # Where the interpreter is a shared library, it must be found beside the program wherever that is put.
        subprocess.run(["patchelf", "--set-rpath", "$ORIGIN/../lib", python], check=True)
        for name in ("python3", "python"):
            (base / "bin" / name).unlink(missing_ok=True)
            (base / "bin" / name).symlink_to(python.name)
        payload = io.BytesIO()
        with tarfile.open(fileobj=payload, mode="w:gz", compresslevel=1) as tar:
            tar.add(base, "base")
            for name, text, mode in (
                ("bin/conda", CONDA, 0o755),
                ("bin/mamba", CONDA, 0o755),
                ("etc/profile.d/conda.sh", CONDA_SH, 0o644),
            ):
                data = text.replace("__LEFT_OUT__", left_out).encode()
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), mode
                tar.addfile(info, io.BytesIO(data))
            link = tarfile.TarInfo("condabin")
            link.type, link.linkname = tarfile.SYMTYPE, "bin"
            tar.addfile(link)
        head = HEAD.replace("__LINES__", str(HEAD.count("\n") + 1))
        installer.write_bytes(head.encode() + payload.getvalue())


if __name__ == "__main__":
    main()
