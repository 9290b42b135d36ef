"""Draws the data set `shapes`: ten classes of 64 px images, for trials without other data.

Only the shape depends on the class; position, size, angle, colours, texture and noise do not. All
randomness is raw 64-bit output of Philox. It is processed only with sums, products, quotients and
square roots, which IEEE 754 rounds the same everywhere, so that every machine draws the same bytes.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_imnet64.data.sources import archives

SEED = 20170727
IMAGE_SIZE = 64
NUM_TRAIN = 4_000
NUM_VALIDATION = 1_000
NUM_BATCHES = 4
ARCHIVES = ("shapes_train_npz.zip", "shapes_val_npz.zip")
DESCRIPTION = "Ten classes of drawn 64 x 64 images; made by keras_imnet64, free to use."

MIN_RADIUS, MAX_RADIUS = 13, 22  # pixels, of the circle around a shape; it lies within the image
MIN_CONTRAST = 70  # grey levels between the mean brightness of shape and background
CHUNK = 250  # images drawn together

Corners = list[tuple[float, float]]  # (x, y) of each corner of a polygon


# --------------------------------------------------------------- the shapes, within the unit circle
# Each function takes coordinates x, y [n, s, s] and returns a signed distance, negative inside.


def _corners(radii: Sequence[float]) -> Corners:
    """Returns corners at equal angles from 0 on and these radii.

    Corners are rounded, so that different cosines of platforms change no pixel.
    """
    step = 2 * math.pi / len(radii)
    return [
        (round(r * math.cos(i * step), 6), round(r * math.sin(i * step), 6))
        for i, r in enumerate(radii)
    ]


def _disc(
    x: np.ndarray, y: np.ndarray, radius: float, center_x: float = 0.0, center_y: float = 0.0
) -> np.ndarray:
    dx, dy = x - np.float32(center_x), y - np.float32(center_y)
    return np.sqrt(dx * dx + dy * dy) - np.float32(radius)


def _polygon(x: np.ndarray, y: np.ndarray, corners: Corners) -> np.ndarray:
    """Returns the distance to the nearest edge; its sign comes from counting crossings."""
    distance2 = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = np.float32(bx - ax), np.float32(by - ay)
        px, py = x - np.float32(ax), y - np.float32(ay)
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        dx, dy = px - along * ex, py - along * ey
        np.minimum(distance2, dx * dx + dy * dy, out=distance2)
        if ey:
            crosses = (y >= np.float32(ay)) != (y >= np.float32(by))
            inside ^= crosses & ((px * ey < py * ex) == (ey > 0))
    distance = np.sqrt(distance2)
    return np.where(inside, -distance, distance)


def _arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    corners = [(1, 0), (0.15, 0.85), (0.15, 0.33), (-0.9, 0.33)]
    return _polygon(x, y, corners + [(cx, -cy) for cx, cy in reversed(corners[1:])])


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _disc(x, y, 0.9)


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(_disc(x, y, 1.0), -_disc(x, y, 0.8, center_x=0.5))


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b = 0.95, 0.29
    quarter = [(a, -b), (a, b), (b, b)]
    return _polygon(x, y, [c for turn in range(4) for c in _turned(quarter, turn)])


def _turned(corners: Corners, quarters: int) -> Corners:
    """Returns corners turned by a number of quarter circles."""
    for _ in range(quarters):
        corners = [(-y, x) for x, y in corners]
    return corners


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    lobes = np.minimum(_disc(x, y, 0.44, -0.4, 0.35), _disc(x, y, 0.44, 0.4, 0.35))
    point = _polygon(x, y, [(-0.76, 0.11), (0.0, -0.84), (0.76, 0.11), (0.0, 0.53)])
    return np.minimum(lobes, point)


def _hourglass(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    top = _polygon(x, y, [(-0.65, 0.75), (0.65, 0.75), (0.0, -0.12)])
    bottom = _polygon(x, y, [(-0.65, -0.75), (0.65, -0.75), (0.0, 0.12)])
    return np.minimum(top, bottom)


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(_disc(x, y, 0.73)) - np.float32(0.22)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _polygon(x, y, _corners([1] * 4))


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _polygon(x, y, _corners([1, 0.4] * 5))


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _polygon(x, y, _corners([1] * 3))


SHAPES = {
    "arrow": _arrow,
    "circle": _circle,
    "crescent": _crescent,
    "cross": _cross,
    "heart": _heart,
    "hourglass": _hourglass,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}
CLASSES = tuple(SHAPES)


# --------------------------------------------------------------------------------------- images


def draw(split: str, num_images: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Draws the images of one split, balanced and shuffled; the same bytes every time.

    Args:
        split: "train" (4,000) or "validation" (1,000).
        num_images: the first N of the split; None for all.

    Returns:
        (uint8 [N, 64, 64, 3], int64 labels [N], positions in CLASSES).
    """
    count = {"train": NUM_TRAIN, "validation": NUM_VALIDATION}[split]
    bits = np.random.Philox(key=[SEED, ("train", "validation").index(split)])
    labels = np.argsort(_uniform(bits, count), kind="stable") % len(CLASSES)
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for start in range(0, count if num_images is None else num_images, CHUNK):
        part = slice(start, start + CHUNK)
        images[part] = _images(bits, labels[part])
    return images[:num_images], labels[:num_images]


def write(folder: Path) -> dict[str, Path]:
    """Draws both splits and writes them as archives in the official layout.

    Returns:
        {file name: path}, in the order of ARCHIVES.
    """
    paths = {name: folder / name for name in ARCHIVES}
    train, validation = paths.values()
    archives.write_archives(
        [train], validation, draw("train"), draw("validation"), num_batches=NUM_BATCHES
    )
    return paths


def _uniform(bits: np.random.Philox, *shape: int) -> np.ndarray:
    """Returns float64 in [0, 1) from the raw output of Philox, equal in all versions of NumPy."""
    raw = bits.random_raw(math.prod(shape)).reshape(shape)
    return (raw >> np.uint64(11)) * 2.0**-53


def _images(bits: np.random.Philox, labels: np.ndarray) -> np.ndarray:
    """Returns one image per label, with texture, shape and noise: uint8 [n, 64, 64, 3]."""
    n = len(labels)
    coverage = _coverage(labels, _uniform(bits, 5, n))[..., None]  # [n, s, s, 1]
    ground, figure = _colours(_uniform(bits, 8, n))  # [n, 1, 1, 3] each
    roughness = 8 + 22 * _uniform(bits, n, 1, 1, 1)
    ground = ground + roughness * (_texture(bits, n, 4) + 0.5 * _texture(bits, n, 16))
    figure = figure + 10 * _texture(bits, n, 8)
    noise = 8 * (_uniform(bits, *ground.shape) - _uniform(bits, *ground.shape))
    pixels = ground + coverage * (figure - ground) + noise
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def _coverage(labels: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Returns the share of each pixel that the shape covers: float64 [n, s, s] in 0..1.

    Args:
        u: random numbers in [0, 1), float64 [5, n].
    """
    radius = MIN_RADIUS + (MAX_RADIUS - MIN_RADIUS) * u[0]
    room = IMAGE_SIZE - 2 - 2 * radius  # in which the centre may lie
    center_x, center_y = 1 + radius + room * u[1], 1 + radius + room * u[2]
    tangent = 2 * u[3] - 1  # of half the angle; sine and cosine follow by division
    cos, sin = (1 - tangent**2) / (1 + tangent**2), 2 * tangent / (1 + tangent**2)
    sign = np.where(u[4] < 0.5, 1, -1)  # |tangent| < 1 reaches half of the circle only
    pixel = np.arange(IMAGE_SIZE, dtype=np.float32) + np.float32(0.5)
    per_image = np.stack([center_x, center_y, cos * sign, sin * sign, radius])
    cx, cy, c, s, r = per_image.astype(np.float32)[:, :, None, None]  # [n, 1, 1] each
    dx, dy = pixel[None, None, :] - cx, pixel[None, :, None] - cy
    x, y = (c * dx + s * dy) / r, (c * dy - s * dx) / r
    distance = np.empty_like(x)
    for label, signed_distance in enumerate(SHAPES.values()):
        chosen = labels == label
        distance[chosen] = signed_distance(x[chosen], y[chosen])
    return np.clip(np.float32(0.5) - distance * r, 0, 1).astype(np.float64)


def _colours(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean colours of background and shape, at least MIN_CONTRAST apart in brightness.

    Args:
        u: random numbers in [0, 1), float64 [8, n].

    Returns:
        (background, shape), float64 [n, 1, 1, 3] each.
    """
    low, high = 45.0, 210.0
    ground = low + (high - low) * u[0]
    below = np.maximum(ground - MIN_CONTRAST - low, 0)  # range of darker shapes
    above = np.maximum(high - ground - MIN_CONTRAST, 0)
    step = u[1] * (below + above)
    figure = np.where(step < below, low + step, ground + MIN_CONTRAST + step - below)
    return _tinted(ground, u[2:5]), _tinted(figure, u[5:8])


def _tinted(brightness: np.ndarray, u: np.ndarray) -> np.ndarray:
    tint = 90 * (u - (u[0] + u[1] + u[2]) / 3)  # sums to 0 over the channels
    return (brightness + tint).T[:, None, None, :]  # [n, 1, 1, 3]


def _texture(bits: np.random.Philox, n: int, cells: int) -> np.ndarray:
    """Returns smooth noise in -1..1, float64 [n, s, s, 3].

    Random values on a grid of cells x cells are interpolated linearly.
    """
    grid = 2 * _uniform(bits, n, cells + 1, cells + 1, 3) - 1
    at = (np.arange(IMAGE_SIZE) + 0.5) * cells / IMAGE_SIZE
    left, part = at.astype(int), at - at.astype(int)
    part = part[:, None, None]
    rows = grid[:, left] + part * (grid[:, left + 1] - grid[:, left])
    part = part[None, :, 0]
    return rows[:, :, left] + part * (rows[:, :, left + 1] - rows[:, :, left])
