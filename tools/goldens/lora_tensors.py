"""An adapter's tensors by their names, the same here and in the reference environment."""

import numpy as np

try:
    from tools.goldens.random_weights import random_direction
except ImportError:  # run beside the reference libraries, outside the repository's root
    from random_weights import random_direction

ALPHA = 1.0


def kind_tensor(kind: str, layer: str, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
    """A LyCORIS tensor: magnitudes near 1, the rest small."""
    if leaf == "alpha":
        return np.full((), ALPHA, np.float32)
    if leaf == "on_input":
        return np.full((), kind == "ia3_input", np.float32)
    return np.asarray((leaf == "dora_scale") + 0.3 * random_direction(f"{kind}.{layer}.{leaf}", shape), np.float32)


def adapter_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a whole model's adapter: alpha 1, magnitudes near 1, the rest small."""
    if key.endswith("alpha"):
        return np.full((), ALPHA, np.float32)
    if key.endswith("lora_magnitude_vector"):
        return (1 + 0.2 * random_direction(key, shape)).astype(np.float32)
    return (0.3 * random_direction(key, shape)).astype(np.float32)
