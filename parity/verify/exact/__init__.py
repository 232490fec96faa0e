"""Integer-valued checkpoints: every partial sum is representable, so any correct kernel gives the same bits.

The stream is a sum of orthogonal rows of a Hadamard matrix with whole coefficients. Every sublayer adds twelve new rows so
that the mean square goes from 4 to 16, 64, 256, ...: a norm divides by a power of two. One attended token is so far ahead
that the others' softmax is exactly 0; rotations of the dimensions in use are exactly the identity in float32, since their
frequency is 1e-15; a gate is 0 or so large that its function is the identity, 0 or 1; what rounds only chooses. Expected
logits are computed from the rules, in whole numbers.

    stream = constant + class + token + ... + what the mixers found + what the MLPs made of it
"""

from .checkpoint import ARCHITECTURES, PROMPTS, digest, expected, expected_digest, tensors, write
from .configs import config
from .pieces import HIDDEN, LAYERS, hadamard

__all__ = [
    "ARCHITECTURES",
    "HIDDEN",
    "LAYERS",
    "PROMPTS",
    "config",
    "digest",
    "expected",
    "expected_digest",
    "hadamard",
    "tensors",
    "write",
]
