"""Weights and images that can be made again bit for bit, as functions of a name and a shape.

NumPy promises to keep the raw output of its bit generators, but not that of its distributions. The
numbers are therefore Philox's 64-bit integers, keyed by the SHA-256 of the name, transformed by
sums, products and square roots alone, which are the same on every machine.

The numbers are chosen so that mistakes show. Running variances are between 0.01 and 0.5, many of
them small, and so are the maps that DaViT normalises, so that a wrong epsilon shows; gammas are
small in return. A kernel followed by a ReLU keeps the mean square of its input. Inputs of DaViT's
windows and MLPs are about 1, where neither attention nor GELU is linear. Those of its channel
attention are smaller, because it sums over 56x56 tokens and would select a single maximum.
"""

import hashlib
import math

import numpy as np

CHUNK = 1 << 20  # numbers drawn at a time: VGG's first dense layer alone has 103 million
CELLS = 4  # per side of an image, each of one colour but for some noise
IMAGE_CHANNELS = 3
DAVIT_BLOCK_NORMS = (".0.norm1.weight", "norm2.weight")  # before window attention and MLPs
DAVIT_BRANCH_ENDS = ("proj.weight", "fc2.weight")  # what they make is added to the map


def values(name, shape):
    """Returns a parameter or running statistic, float32; kernels have PyTorch's layout."""
    u = uniform(name, shape)
    if name.endswith("running_var"):
        return 0.01 + 0.49 * u * u * u
    if not name.endswith("weight"):
        return 0.4 * u - 0.2  # biases, betas, running means
    if len(shape) == 1:
        gammas = 0.07 + 0.14 * u
        return 10 * gammas if name.endswith(DAVIT_BLOCK_NORMS) else gammas
    small = name.endswith(DAVIT_BRANCH_ENDS) or shape[1] == IMAGE_CHANNELS
    return centred(u, variance=(0.02 if small else 2) / math.prod(shape[1:]))


def centred(u, variance):
    """Scales numbers of [0, 1) in place to zero mean and this variance."""
    u -= 0.5
    u *= np.float32(math.sqrt(12 * variance))
    return u


def uniform(name, shape):
    """Returns float32 multiples of 2^-24 in [0, 1)."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    bits = np.random.Philox(key=key)
    numbers = np.empty(math.prod(shape), "float32")
    for start in range(0, numbers.size, CHUNK):
        part = numbers[start : start + CHUNK]
        part[:] = bits.random_raw(part.size) >> np.uint64(40)
    numbers *= np.float32(2**-24)
    return numbers.reshape(shape)


def images(size):
    """Returns two images, uint8 [2, size, size, 3]; 4 divides the size."""
    cells = uniform("cells", (2, CELLS, CELLS, 3))
    cells = cells.repeat(size // CELLS, axis=1).repeat(size // CELLS, axis=2)
    noise = uniform("noise", cells.shape)
    return ((0.75 * cells + 0.25 * noise) * 256).astype("uint8")


def digest(shapes):
    """Returns the SHA-256 of the names and shapes of a network's tensors, sorted by name."""
    lines = [f"{name} {list(map(int, shapes[name]))}\n" for name in sorted(shapes)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
