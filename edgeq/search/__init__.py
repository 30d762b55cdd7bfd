"""Which layer gets how many bits, decided by what the network then computes.

    search      the smallest bundle that keeps the user's metric, or the best one within so many bytes
"""
from edgeq.search.limits import Goal, Limits, goal_on, limits_of
from edgeq.search.run import Found, score_alone, search
from edgeq.search.workbench import Built, Workbench, observed

__all__ = ["Built", "Found", "Goal", "Limits", "Workbench", "goal_on", "limits_of", "observed", "score_alone", "search"]
