"""Which packages a bundle needs on a board, and where they come from: PyPI's wheels, fetched here and pushed."""
from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeq.backend import Recipe, backends
from edgeq.boards.cache import age_days, cache_folder, made_once
from edgeq.boards.facts import Facts
from edgeq.errors import BoardError, UsageError
from edgeq_runtime.engines.versions import matches, specifier
from edgeq_runtime.manifest import Manifest

INSTALLED: Final = "installed"


@dataclass(frozen=True, slots=True)
class Packages:
    """wheels: files to push, in the order of sys.path. engine: "onnxruntime 1.24.1". imports: modules. age_days: since
    the newest was looked for, None where nothing was chosen.
    """

    wheels: tuple[Path, ...]
    engine: str
    imports: tuple[str, ...]
    age_days: int | None = None


def choose_packages(manifest: Manifest, facts: Facts, engine: str | None = None) -> Packages:
    """What a board needs to run a bundle.

    engine: instead of the newest that the bundle allows, a pip requirement such as "onnxruntime==1.21.0", or
    "installed" for what the board's Python has.

    Raises:
        BoardError: nothing fits this board; says what was looked for and what helps.
    """
    recipe = _recipe(manifest, facts)
    if recipe.last and not matches(recipe.last, _releases(recipe, manifest)):
        raise BoardError(f"{recipe.package} {recipe.last} is the last for {facts.machine}, and the bundle needs "
                         f"{recipe.package} {_releases(recipe, manifest)}: convert it with --bits 8")
    installed = recipe.installed if engine != INSTALLED else ("numpy", recipe.package)
    for package in installed:
        _check_installed(package, recipe, manifest, facts)
    if recipe.package in installed:
        return _boards_own(recipe, facts, engine)
    return _downloaded(recipe, manifest, facts, engine)


def _boards_own(recipe: Recipe, facts: Facts, engine: str | None) -> Packages:
    if engine not in (None, INSTALLED):
        raise BoardError(f"PyPI has no {recipe.package} for {facts.machine}, so --engine has no choice: the board has "
                         f"{facts.packages[recipe.package]}")
    return Packages((), f"{recipe.package} {facts.packages[recipe.package]}", recipe.imports)


def _downloaded(recipe: Recipe, manifest: Manifest, facts: Facts, engine: str | None) -> Packages:
    if engine is not None and _name(engine) != recipe.package:
        raise UsageError(f"--engine {engine}: this bundle runs on {recipe.package} there")
    wheels = download([engine or f"{recipe.package}{_releases(recipe, manifest)}", *recipe.wheels], facts)
    version = next(wheel.name.split("-")[1] for wheel in wheels if _name(wheel.name.split("-")[0]) == recipe.package)
    return Packages(wheels, f"{recipe.package} {version}", recipe.imports,
                    age_days(wheels[0].parent) if engine is None else None)


def _recipe(manifest: Manifest, facts: Facts) -> Recipe:
    fitting = {backend.target.engine: recipe for backend in backends() for recipe in backend.recipes
               if facts.machine in recipe.machines and facts.system == "linux"}
    if manifest.engine in fitting:
        return fitting[manifest.engine]
    for backend in backends():
        if backend.target.engine == manifest.engine and backend.no_boards:
            raise BoardError(f"{backend.no_boards}, or convert for {' or '.join(sorted(fitting))}")
    raise BoardError(f"there is no {manifest.engine} for {facts}")


def _check_installed(package: str, recipe: Recipe, manifest: Manifest, facts: Facts) -> None:
    found = facts.packages.get(package)
    if found is None:
        remedy = f", and PyPI has none for {facts.machine}: {recipe.remedy}" if package in recipe.installed else ""
        raise BoardError(f"the board's Python has no {package}{remedy}")
    needed = _releases(recipe, manifest) if package == recipe.package else ""
    if not matches(found, needed):
        raise BoardError(f"the bundle needs {package} {needed}, the board's Python has {found}")


def _releases(recipe: Recipe, manifest: Manifest) -> str:
    return specifier(recipe.package, manifest.engine_version, manifest.options)


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def download(requirements: Sequence[str], facts: Facts) -> tuple[Path, ...]:
    """The newest wheels for a board, from pip or from the cache: what was chosen once stays chosen.

    Raises:
        BoardError: no wheel fits the board, or there is no network.
    """
    arguments = [*_platform_arguments(facts), *requirements]
    digest = hashlib.sha256("\n".join(arguments).encode()).hexdigest()[:16]

    def make(draft: Path) -> None:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
                   "--only-binary=:all:", "--dest", str(draft), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise BoardError(_why_not(done.stderr, requirements, facts))

    folder = made_once(cache_folder() / "wheels" / digest, make)
    return tuple(sorted(folder.glob("*.whl")))


def _platform_arguments(facts: Facts) -> list[str]:
    """https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/"""
    if facts.glibc is None:
        raise BoardError(f"the engines have wheels for glibc only, and the board has another C library ({facts}): "
                         "use a Debian, Ubuntu or Raspberry Pi OS system")
    major, minor = facts.glibc
    platforms = [f"manylinux_{major}_{k}_{facts.machine}" for k in range(minor, 4, -1)]
    platforms += [f"manylinux2014_{facts.machine}", f"linux_{facts.machine}"]
    version = re.fullmatch(r"cp(\d)(\d+)(t?)", facts.tag)
    if version is None:
        raise BoardError(f"the engines have wheels for CPython only, and the board has {facts.tag}")
    found = [word for platform in platforms for word in ("--platform", platform)]
    return [*found, "--python-version", f"{version[1]}.{version[2]}", "--implementation", "cp",
            "--abi", facts.tag, "--abi", "abi3", "--abi", "none"]


def _why_not(pip: str, requirements: Sequence[str], facts: Facts) -> str:
    if "after connection broken by" in pip:  # it says "No matching distribution" then too
        reasons = re.findall(r"\[Errno -?\d+\] ([^')]+)", pip) or ["no connection"]
        return f"pip cannot reach its index for {', '.join(requirements)}: {reasons[-1]}"
    lines = [line.removeprefix("ERROR: ") for line in pip.splitlines() if line.startswith("ERROR: ")]
    if any("No matching distribution" in line for line in lines):
        absent = re.findall(r"No matching distribution found for (\S+)", pip) or requirements
        return (f"PyPI has no wheel of {', '.join(absent)} for {facts}: a newer system on the board, or another "
                "version with --engine, may have one")
    return f"pip cannot fetch {', '.join(requirements)}: {'; '.join(lines) or pip.strip()[-300:]}"
