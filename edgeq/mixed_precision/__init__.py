"""Which layer gets how many bits, decided by what the network then computes.

    search      the smallest bundle that keeps the user's metric, or the best one within so many bytes
"""
from edgeq.mixed_precision.goal import Goal, Limits, goal_on, limits_of
from edgeq.mixed_precision.metric_search import Found, score_alone, search
from edgeq.mixed_precision.trial_builder import Built, Workbench, observed

__all__ = ["Built", "Found", "Goal", "Limits", "Workbench", "goal_on", "limits_of", "observed", "score_alone", "search"]
