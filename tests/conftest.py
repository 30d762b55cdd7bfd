"""Settings of the whole test run."""
from __future__ import annotations

from hypothesis import settings

# Two cores are shared by several processes: how long an example takes says nothing about the code.
settings.register_profile("edgeq", deadline=None)
settings.load_profile("edgeq")
