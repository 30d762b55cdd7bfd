"""Bad input: what a user can get wrong, the exit code, and the message that names the thing and the remedy."""
from .archives import ARCHIVES
from .bundles import BUNDLES
from .case import BUNDLE, Case, convert, model, network, samples
from .data import CALIBRATION
from .models import MODELS
from .options import OPTIONS, OUTPUTS

CASES = {"model": MODELS, "calibration": CALIBRATION, "options": OPTIONS, "output": OUTPUTS, "bundle": BUNDLES,
         "archive": ARCHIVES}

__all__ = ["BUNDLE", "CASES", "Case", "convert", "model", "network", "samples"]
