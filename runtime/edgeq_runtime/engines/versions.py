"""Version specifiers such as ">=1.23,<2", compared by their numbers alone: no dependency on `packaging`."""
from __future__ import annotations

import operator
import re
from itertools import zip_longest
from typing import Any, Callable, Dict, Mapping, Tuple

from edgeq_runtime.errors import BundleError, EngineError

_OPERATORS: Dict[str, Callable[[int, int], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}
_CLAUSE = re.compile(r"(>=|<=|==|!=|>|<)\s*(\d+(?:\.\d+)*)")


def specifier(package: str, engine_version: str, options: Mapping[str, Any]) -> str:
    """The releases of a package that a bundle runs on; numbers of tflite-runtime do not compare with its successor's.

    engine_version, options: of a manifest.
    """
    return str(options.get("tflite_runtime", "")) if package == "tflite-runtime" else engine_version


def require(package: str, version: str, specifier: str) -> None:
    """Check an installed version before anything is loaded.

    Raises:
        EngineError: the version is outside the specifier. BundleError: the specifier cannot be read.
    """
    if not matches(version, specifier):
        raise EngineError(f"this bundle needs {package} {specifier}, installed is {version}: "
                          f"pip install '{package}{specifier}'")


def matches(version: str, specifier: str) -> bool:
    """"1.24.1" fits ">=1.23,<2". A suffix (rc1, .post1, +cu12) is ignored: engines are compared by release."""
    for text in filter(None, (clause.strip() for clause in specifier.split(","))):
        clause = _CLAUSE.fullmatch(text)
        if clause is None:
            raise BundleError(f"the engine version '{specifier}' cannot be read; '>=1.23,<2' is the form")
        if not _OPERATORS[clause.group(1)](_order(_numbers(version), _numbers(clause.group(2))), 0):
            return False
    return True


def _order(a: Tuple[int, ...], b: Tuple[int, ...]) -> int:
    """-1, 0 or 1; missing trailing numbers are zeros, so that 1.23 equals 1.23.0."""
    for left, right in zip_longest(a, b, fillvalue=0):
        if left != right:
            return 1 if left > right else -1
    return 0


def _numbers(version: str) -> Tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(number) for number in found.group().split(".")) if found else ()
