"""Settings of the whole test run."""
from __future__ import annotations

import signal

from hypothesis import settings

# Two cores are shared by several processes: how long an example takes says nothing about the code.
settings.register_profile("edgeq", deadline=None)
settings.load_profile("edgeq")

# A shell that starts the run in the background has it ignore SIGINT, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
