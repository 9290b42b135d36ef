"""`shapes`: ten classes of drawn 64 px images, so that everything runs where there is no data.

The class is the shape alone; position, size, angle, colours, texture and noise are drawn without
regard to it. All randomness is Philox' raw 64-bit output, and only additions, products, quotients
and square roots follow, which IEEE 754 rounds alike everywhere: the same bytes on every machine.
"""

import math

import numpy as np

from keras_imnet64.data.sources import archives

SEED = 20170727
IMAGE_SIZE = 64
NUM_TRAIN = 4_000
NUM_VALIDATION = 1_000
NUM_BATCHES = 4
ARCHIVES = ("shapes_train_npz.zip", "shapes_val_npz.zip")
DESCRIPTION = "Ten classes of drawn 64 x 64 images; made by keras_imnet64, free to use."

MIN_RADIUS, MAX_RADIUS = 13, 22  # pixels; the shape lies within this circle, and it in the image
MIN_CONTRAST = 70  # grey levels between the mean brightness of shape and background
CHUNK = 250  # images drawn at once


# --------------------------------------------------------------- the shapes, within the unit circle
# Each takes coordinates x, y [n, s, s] and returns a signed distance, negative inside.


def _corners(radii, start=0.0):
    """Corners at equal angles; rounded, so that no platform's cosine decides a pixel."""
    step = 2 * math.pi / len(radii)
    angles = [start + i * step for i in range(len(radii))]
    return [
        (round(r * math.cos(a), 6), round(r * math.sin(a), 6))
        for r, a in zip(radii, angles, strict=True)
    ]


def _disc(x, y, radius, center_x=0.0, center_y=0.0):
    dx, dy = x - np.float32(center_x), y - np.float32(center_y)
    return np.sqrt(dx * dx + dy * dy) - np.float32(radius)


def _polygon(x, y, corners):
    """Distance to the nearest edge, with the sign by counting crossings."""
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


def _arrow(x, y):
    corners = [(1, 0), (0.15, 0.85), (0.15, 0.33), (-0.9, 0.33)]
    return _polygon(x, y, corners + [(cx, -cy) for cx, cy in reversed(corners[1:])])


def _circle(x, y):
    return _disc(x, y, 0.9)


def _crescent(x, y):
    return np.maximum(_disc(x, y, 1.0), -_disc(x, y, 0.8, center_x=0.5))


def _cross(x, y):
    a, b = 0.95, 0.29
    quarter = [(a, -b), (a, b), (b, b)]
    return _polygon(x, y, [c for turn in range(4) for c in _turned(quarter, turn)])


def _turned(corners, quarters):
    for _ in range(quarters):
        corners = [(-y, x) for x, y in corners]
    return corners


def _heart(x, y):
    lobes = np.minimum(_disc(x, y, 0.44, -0.4, 0.35), _disc(x, y, 0.44, 0.4, 0.35))
    point = _polygon(x, y, [(-0.76, 0.11), (0.0, -0.84), (0.76, 0.11), (0.0, 0.53)])
    return np.minimum(lobes, point)


def _hourglass(x, y):
    top = _polygon(x, y, [(-0.65, 0.75), (0.65, 0.75), (0.0, -0.12)])
    bottom = _polygon(x, y, [(-0.65, -0.75), (0.65, -0.75), (0.0, 0.12)])
    return np.minimum(top, bottom)


def _ring(x, y):
    return np.abs(_disc(x, y, 0.73)) - np.float32(0.22)


def _square(x, y):
    return _polygon(x, y, _corners([1] * 4))


def _star(x, y):
    return _polygon(x, y, _corners([1, 0.4] * 5))


def _triangle(x, y):
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


def draw(split):
    """All images of one split, balanced and shuffled; the same bytes every time.

    Args:
        split: "train" (4,000) or "validation" (1,000).

    Returns:
        (uint8 [N, 64, 64, 3], int64 labels [N], positions in CLASSES).
    """
    count = {"train": NUM_TRAIN, "validation": NUM_VALIDATION}[split]
    bits = np.random.Philox(key=[SEED, ("train", "validation").index(split)])
    labels = np.argsort(_uniform(bits, count), kind="stable") % len(CLASSES)
    images = np.empty((count, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        images[part] = _images(bits, labels[part])
    return images, labels


def write(folder):
    """Draw both splits and write them as archives in the official layout.

    Returns:
        dict: file name -> path, as in ARCHIVES.
    """
    paths = {name: folder / name for name in ARCHIVES}
    train, validation = paths.values()
    archives.write_archives(
        [train], validation, draw("train"), draw("validation"), num_batches=NUM_BATCHES
    )
    return paths


def _uniform(bits, *shape):
    """Doubles in [0, 1) from the generator's raw output, whose bits no NumPy version may change."""
    raw = bits.random_raw(math.prod(shape)).reshape(shape)
    return (raw >> np.uint64(11)) * 2.0**-53


def _images(bits, labels):
    """Texture, shape and noise of some images: uint8 [n, 64, 64, 3]."""
    n = len(labels)
    coverage = _coverage(labels, _uniform(bits, 5, n))[..., None]  # [n, s, s, 1]
    ground, figure = _colours(_uniform(bits, 8, n))  # [n, 1, 1, 3] each
    rough = 8 + 22 * _uniform(bits, n, 1, 1, 1)
    ground = ground + rough * (_texture(bits, n, 4) + 0.5 * _texture(bits, n, 16))
    figure = figure + 10 * _texture(bits, n, 8)
    noise = 8 * (_uniform(bits, *ground.shape) - _uniform(bits, *ground.shape))
    pixels = ground + coverage * (figure - ground) + noise
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def _coverage(labels, u):
    """How much of each pixel the shape covers: float64 [n, s, s] in 0..1."""
    radius = MIN_RADIUS + (MAX_RADIUS - MIN_RADIUS) * u[0]
    room = IMAGE_SIZE - 2 - 2 * radius
    center_x, center_y = 1 + radius + room * u[1], 1 + radius + room * u[2]
    tangent = 2 * u[3] - 1  # of half the angle: a direction without sine and cosine
    cos, sin = (1 - tangent**2) / (1 + tangent**2), 2 * tangent / (1 + tangent**2)
    sign = np.where(u[4] < 0.5, 1, -1)  # the half circle that |tangent| < 1 leaves out
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


def _colours(u):
    """Mean colours of background and shape, at least MIN_CONTRAST apart in brightness."""
    low, high = 45.0, 210.0
    ground = low + (high - low) * u[0]
    below = np.maximum(ground - MIN_CONTRAST - low, 0)  # room for darker shapes
    above = np.maximum(high - ground - MIN_CONTRAST, 0)
    step = u[1] * (below + above)
    figure = np.where(step < below, low + step, ground + MIN_CONTRAST + step - below)
    return _tinted(ground, u[2:5]), _tinted(figure, u[5:8])


def _tinted(brightness, u):
    tint = 90 * (u - (u[0] + u[1] + u[2]) / 3)  # sums to 0 over the channels
    return (brightness + tint).T[:, None, None, :]


def _texture(bits, n, cells):
    """Smooth noise in -1..1: random values on a grid of `cells`, interpolated: [n, s, s, 3]."""
    grid = 2 * _uniform(bits, n, cells + 1, cells + 1, 3) - 1
    at = (np.arange(IMAGE_SIZE) + 0.5) * cells / IMAGE_SIZE
    left, part = at.astype(int), at - at.astype(int)
    part = part[:, None, None]
    rows = grid[:, left] + part * (grid[:, left + 1] - grid[:, left])
    part = part[None, :, 0]
    return rows[:, :, left] + part * (rows[:, :, left + 1] - rows[:, :, left])
