from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from language_bundles import bundle

from edgeq_runtime import Model, load


@pytest.fixture(scope="session")
def language_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF bundle that no test changes."""
    return bundle(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="session")
def model(language_bundle: Path) -> Iterator[Model]:
    with load(language_bundle) as opened:
        yield opened
