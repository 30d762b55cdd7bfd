"""Broken and hostile files by the thousand: how they are made, and how each is tried in a process with limits."""
