"""Writes locks: the versions of deploy/constraints.txt with the SHA-256 of every file, for pip.

`make lock` writes deploy/lock/cp311-cuda.txt and so on, one for each version of Python and each
variant of torch, for Linux on x86-64. uv resolves; it takes torch for CPUs from torch's own index,
or from the folder or page of wheels that --cpu-wheels names.
"""

import argparse
import subprocess
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "lock"
GLIBC = range(28, 4, -1)
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
BUILDS = "hatchling\neditables\n"
"""What an installation of the project itself needs, as pip must not fetch it unseen."""


def resolve(minor: int, variant: str, cpu_wheels: str) -> list[dict[str, Any]]:
    """Return the packages that uv finds for Python 3.MINOR, with all files of each."""
    torch = []
    if variant == "cpu":
        torch = ["--find-links", cpu_wheels] if cpu_wheels else ["--torch-backend", "cpu"]
    with tempfile.TemporaryDirectory() as folder:
        out, builds = Path(folder) / "pylock.toml", Path(folder) / "builds.in"
        builds.write_text(BUILDS)
        command = ["uv", "pip", "compile", "--quiet", "pyproject.toml", str(builds)]
        command += ["--extra", "onnx", "--extra", "tensorboard", *torch]
        command += ["--constraint", "deploy/constraints.txt", "--python-version", f"3.{minor}"]
        command += ["--python-platform", "x86_64-manylinux_2_28", "--output-file", str(out)]
        subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603
        packages: list[dict[str, Any]] = tomllib.loads(out.read_text("utf-8"))["packages"]
        return packages


def lines(packages: Iterable[Mapping[str, Any]], tags: set[Tag]) -> Iterator[str]:
    """Yield a lock's lines: each package with the hashes of the files that can be installed."""
    for package in packages:
        files = [file for file in package.get("wheels", []) if tags & wheel_tags(file)]
        files = files or [package["sdist"]]
        yield f"{package['name']}=={package['version']}" + "".join(
            f" \\\n    --hash=sha256:{file['hashes']['sha256']}" for file in files
        )


def wheel_tags(file: Mapping[str, Any]) -> set[Tag]:
    """Return the interpreters and platforms that a wheel is for."""
    place = file.get("url") or file["path"]
    return set(parse_wheel_filename(unquote(urlsplit(place).path).rpartition("/")[2])[3])


def main() -> None:
    """Write the locks that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minors", default="11,12,13,14", help="of Python 3, with commas")
    parser.add_argument("--variants", default="cuda,cpu", help="of torch, with commas")
    parser.add_argument("--cpu-wheels", default="", help="folder or page of torch's CPU wheels")
    asked = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for minor in map(int, asked.minors.split(",")):
        interpreter = f"cp3{minor}"
        tags = {*cpython_tags((3, minor), platforms=PLATFORMS)}
        tags |= {*compatible_tags((3, minor), interpreter, PLATFORMS)}
        for variant in asked.variants.split(","):
            packages = resolve(minor, variant, asked.cpu_wheels)
            torch = next(one["version"] for one in packages if one["name"] == "torch")
            name = f"{interpreter}-{variant}.txt"
            if ("+cpu" in torch) != (variant == "cpu"):
                print(f"{name}: left as it is, no wheel of torch for CPUs was found")
                continue
            (FOLDER / name).write_text("\n".join(lines(packages, tags)) + "\n", "utf-8")
            print(f"{name}: {len(packages)} packages")


if __name__ == "__main__":
    main()
