"""Which layer gets how many bits, decided by what the network then computes.

    choose_precisions   what samples say: more bits or float for the layers that lose most
    search              the smallest bundle that keeps the user's metric, or the best one within so many bytes
"""
from edgeq.mixed_precision.automatic import choose_precisions
from edgeq.mixed_precision.goal import Goal, Limits, goal_on, limits_of
from edgeq.mixed_precision.metric_search import score_alone, search
from edgeq.mixed_precision.result import MixedPrecision
from edgeq.mixed_precision.trial_builder import Built, TrialBuilder, observed

__all__ = ["Built", "Goal", "Limits", "MixedPrecision", "TrialBuilder", "choose_precisions", "goal_on", "limits_of",
           "observed", "score_alone", "search"]
