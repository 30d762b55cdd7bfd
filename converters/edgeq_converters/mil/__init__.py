"""Operator handlers in the words of MIL, which backends with a builder that speaks it share."""
