"""The verifier's power: faults planted on purpose, and what becomes of each.

catalogue   what really goes wrong between stacks
edits       faults in a checkpoint's files
patches     faults of a loaded model
trial       plants one and verifies
"""

from .catalogue import FAULTS, Fault
from .trial import Trial, capture_local, plan_of, try_fault

__all__ = ["FAULTS", "Fault", "Trial", "capture_local", "plan_of", "try_fault"]
