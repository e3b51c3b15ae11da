"""The look of one photo on the shapes of another: its colours by optimal transport, its brushwork patch by patch.

Y X height and width; pictures (Y, X, 3) float32 RGB in [0, 1].
"""

import cv2
import numpy as np

from mix.appflow.blend.salience import guided_line

COLOUR_WORK = 192  # longer side at which colours are compared
WORK = 320  # longer side at which patches are compared
PATCH, STRIDE, HANDFUL = 28, 10, 240
READABLE, MOST_SHIFT = 0.62, 30.0  # of the shapes' contrast; of lightness, 0 to 100
ROUNDS = 10


def looks_like(shapes: np.ndarray, look: np.ndarray, texture: float) -> np.ndarray:
    """`shapes` with the colours of `look` and, as far as `texture` (0 to 1) says, made of its patches."""
    coloured = recoloured(shapes, look)
    if texture == 0:
        return coloured
    return textured(coloured, brushwork(coloured, look), texture)


def recoloured(picture: np.ndarray, look: np.ndarray) -> np.ndarray:
    """The picture with the colour distribution of `look`: sliced optimal transport in Lab (Pitie et al. 2007).

    What transport does to single pixels is noisy where a smooth area is stretched. So it is worked out on small copies,
    and the change is carried to the full size along the picture's own edges.
    """
    source = _lab(picture)
    small, wanted = (_lab(_at_most(p, COLOUR_WORK)) for p in (picture, look))
    moved = transported(small.reshape(-1, 3), wanted.reshape(-1, 3)).reshape(small.shape)
    grey = small[..., 0] / 100
    size = picture.shape[1], picture.shape[0]
    change = np.empty_like(source)
    for i in range(3):
        slope, offset = guided_line(moved[..., i] - small[..., i], grey, max(2, COLOUR_WORK // 40), 2e-4)
        slope, offset = (cv2.resize(x, size, interpolation=cv2.INTER_LINEAR) for x in (slope, offset))
        change[..., i] = slope * (source[..., 0] / 100) + offset
    change[..., 0] *= _bearable(source[..., 0], change[..., 0])
    return cv2.cvtColor(source + change, cv2.COLOR_LAB2RGB).clip(0, 1)


def _bearable(lightness: np.ndarray, change: np.ndarray) -> float:
    """How much of a change of lightness leaves the shapes readable: most of their contrast, and not black on black."""
    few = slice(None, None, 3)
    source, change = lightness[few, few], change[few, few]

    def spread(values: np.ndarray) -> float:
        low, high = np.percentile(values, (10, 90))
        return float(high - low)

    least = READABLE * spread(source)
    for part in np.linspace(1, 0.2, 9):
        moved = (source + part * change).clip(0, 100)
        if spread(moved) >= least and abs(float((moved - source).mean())) <= MOST_SHIFT:
            return float(part)
    return 0.2


def transported(points: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(N, 3) points moved so that they are spread as `wanted` (M, 3): one-dimensional transports along random axes."""
    points, draw = points.copy(), np.random.default_rng(11)
    grid = np.linspace(0, 1, 128)
    for _ in range(ROUNDS):
        axes = np.linalg.qr(draw.normal(size=(3, 3)))[0].astype(np.float32)
        along, there = points @ axes, wanted @ axes
        moved = np.empty_like(along)
        for axis in range(3):
            have, want = (np.quantile(values[:, axis], grid) for values in (along, there))
            moved[:, axis] = np.interp(along[:, axis], have + np.arange(len(grid)) * 1e-6, want)
        points += 0.8 * (moved - along) @ axes.T
    return points


def _lab(picture: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.asarray(picture, np.float32), cv2.COLOR_RGB2LAB)


def _at_most(picture: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def brushwork(picture: np.ndarray, look: np.ndarray) -> np.ndarray:
    """The fine detail of `look`, laid over the picture (Y, X, 3) in patches that suit what they cover, around 0.

    Texture transfer after Efros & Freeman (2001): each patch of the picture takes, from a random handful of the look's
    patches, the one with the nearest lightness and edges. The handful keeps flat areas from repeating one patch.
    """
    height, width = picture.shape[:2]
    small = _at_most(picture, WORK)
    other = cv2.resize(look, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)
    wanted, offered = (_patches(_features(p), stride) for p, stride in ((small, STRIDE), (other, 4)))
    found = _grid(other.shape, 4)[_nearest(wanted, offered)]
    look = cv2.resize(look, (width, height), interpolation=cv2.INTER_AREA)
    detail = look - cv2.GaussianBlur(look, (0, 0), max(height, width) / 64)
    return _laid(detail, _grid(small.shape, STRIDE), found, width / small.shape[1])


def _features(picture: np.ndarray) -> np.ndarray:
    """(Y, X, 4) what a patch should have: lightness, some colour, and detail by itself, which counts most."""
    lab = _lab(picture) / 100
    lab[..., 1:] *= 0.7
    detail = 2 * (lab[..., 0] - cv2.GaussianBlur(lab[..., 0], (0, 0), 5))
    return np.concatenate([lab, detail[..., None]], axis=2)


def _grid(shape: tuple[int, ...], stride: int) -> np.ndarray:
    """(N, 2) tops and lefts of the patches."""
    rows, columns = (np.unique(np.append(np.arange(0, n - PATCH + 1, stride), max(n - PATCH, 0))) for n in shape[:2])
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=2).reshape(-1, 2)


def _patches(features: np.ndarray, stride: int) -> np.ndarray:
    """(N, values) of the patches of the grid, every third pixel of a softened copy."""
    soft = cv2.blur(features, (3, 3))
    every = np.arange(1, min(PATCH, *features.shape[:2]), 3)
    places = _grid(features.shape, stride)
    rows, columns = places[:, 0, None, None] + every[:, None], places[:, 1, None, None] + every[None]
    return soft[rows, columns].reshape(len(places), -1)


def _nearest(wanted: np.ndarray, offered: np.ndarray) -> np.ndarray:
    """For each row the index of a near one among the offered: the nearest of a random handful, another one every other
    row."""
    draw, lengths = np.random.default_rng(5), (offered**2).sum(axis=1)
    found = []
    for block in np.array_split(wanted, max(1, len(wanted) // 2)):
        some = draw.choice(len(offered), min(HANDFUL, len(offered)), replace=False)
        found.append(some[np.argmin(lengths[some] - 2 * block @ offered[some].T, axis=1)])
    return np.concatenate(found)


def _laid(detail: np.ndarray, places: np.ndarray, found: np.ndarray, scale: float) -> np.ndarray:
    """The patches of `detail` found, at their places, fading into each other with their contrast kept."""
    height, width = detail.shape[:2]
    side = min(round(PATCH * scale), height, width)
    window = np.outer(*[np.hanning(side + 2)[1:-1].astype(np.float32)] * 2)[..., None]
    total, weight = np.zeros_like(detail), np.full((height, width, 1), 1e-6, np.float32)
    limit = np.array([height - side, width - side])
    jitter = np.random.default_rng(9).uniform(-0.5, 0.5, places.shape) * STRIDE  # else the grid would be seen
    moved = (places + jitter).clip(0, None)
    to, fro = (np.minimum(np.rint(corners * scale), limit).astype(int).tolist() for corners in (moved, found))
    for (y, x), (v, u) in zip(to, fro, strict=True):
        total[y : y + side, x : x + side] += window * detail[v : v + side, u : u + side]
        weight[y : y + side, x : x + side] += window**2
    return total / np.sqrt(weight)


def textured(coloured: np.ndarray, detail: np.ndarray, texture: float) -> np.ndarray:
    """The recoloured picture with the look's detail in place of its own where it has no strong edges."""
    own = coloured - cv2.GaussianBlur(coloured, (0, 0), max(coloured.shape[:2]) / 64)
    energy = np.sqrt(cv2.GaussianBlur((own**2).mean(axis=2), (0, 0), max(coloured.shape[:2]) / 200))[..., None]
    edges = energy**2 / (energy**2 + 0.04**2)
    return (coloured + texture * (detail * (1 - 0.7 * edges) - 0.8 * own * (1 - edges))).clip(0, 1)
