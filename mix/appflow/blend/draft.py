"""The four methods: from two photos on one canvas to a first blend at any balance, before anything is painted anew."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from paddle import Tensor

from mix.appflow.blend import bands, look, seam
from mix.appflow.blend.align import Pair
from mix.appflow.blend.carry import carry, decoded, to_latents, to_rows, work_size
from mix.appflow.blend.request import BlendRequest
from mix.appflow.blend.salience import salience
from ppdiffusers.pipelines.bundle import Bundle


@dataclass(frozen=True, eq=False)
class Draft:
    """A blend before it is painted anew.

    picture: (Y, X, 3) float32, about [0, 1].
    zone: (Y, X), where it may be painted anew; None: everywhere.
    latents, residual, base: where the blend was made in latents: these (1, C, y, x), what they miss and the picture
        they decode to, both (Y, X, 3). Otherwise the picture is encoded when it is needed.
    """

    picture: np.ndarray
    zone: np.ndarray | None = None
    latents: Tensor | None = None
    residual: np.ndarray | None = None
    base: np.ndarray | None = None


BREATH = 0.08  # of B's shapes in the middle of "structure+look"
Drafter = Callable[[float], Draft]


def drafter(request: BlendRequest, pair: Pair, bundle: Bundle | None) -> Drafter:
    """What gives the draft at a balance; what is common to all balances is worked out here, once.

    Raises ValueError where the method needs a model and there is none.
    """
    match request.method:
        case "latent":
            if bundle is None:
                raise ValueError("the latent method mixes in a model's space and needs a model; choose another method")
            return _latent(request, pair, bundle)
        case "structure+look":
            return _dressed(request, pair)
        case "composite":
            return _composite(request, pair)
        case _:
            return lambda balance: Draft(pair.a * (1 - balance) + pair.b * balance)


def contest(pair: Pair) -> np.ndarray:
    """(Y, X) from -1, where A catches the eye, to 1, where B does."""
    return salience(pair.b) - salience(pair.a)


def _latent(request: BlendRequest, pair: Pair, bundle: Bundle) -> Drafter:
    """Latents and residuals of both photos, mixed band by band with the same shares: along the sphere, each place more
    the photo's that has more to show there."""
    work = work_size(bundle, pair.size)
    a, b = carry(bundle, pair.a, work), carry(bundle, pair.b, work)
    rivalries = bands.rivalry(pair.a, pair.b, contest(pair), request.selective)
    rows = to_rows(a.latents), to_rows(b.latents)

    def draft(balance: float) -> Draft:
        parts = bands.shares(balance, rivalries)
        latents = to_latents(bands.join(*rows, parts))
        residual = bands.join(a.residual, b.residual, parts)
        base = decoded(bundle, latents, pair.size)
        return Draft(base + residual, None, latents, residual, base)

    return draft


def _dressed(request: BlendRequest, pair: Pair) -> Drafter:
    """Up to the middle the look of B comes over A, with a first breath of its shapes; after it these come through."""
    dressed = look.looks_like(pair.a, pair.b, request.texture)
    rivalries = bands.rivalry(dressed, pair.b, contest(pair), request.selective)

    def draft(balance: float) -> Draft:
        worn = pair.a + (dressed - pair.a) * min(1.0, 2 * balance)
        late = max(0.0, 2 * balance - 1)
        part = BREATH * 2 * balance if balance <= 0.5 else BREATH + (1 - BREATH) * late
        fields = [min(1.0, 2 * late) * field for field in rivalries]  # at first evenly, so that no shape stands out
        return Draft(bands.join(worn, pair.b, bands.shares(part, fields)))

    return draft


def _composite(request: BlendRequest, pair: Pair) -> Drafter:
    """The photos side by side along a seam; only the seam is painted anew."""
    places = seam.field(request, pair.a, contest(pair))
    exposed = request.shape == "shadows"  # everywhere is a bit of both: there is no seam to be hidden
    softness = 0.3 + 0.7 * request.softness if exposed else request.softness

    def draft(balance: float) -> Draft:
        mask = seam.cut(places, balance, softness)
        if exposed:
            return Draft(bands.masked(pair.a, pair.b, mask))
        return Draft(seam.composite(pair.a, pair.b, mask), seam.zone(mask))

    return draft


def outline(picture: np.ndarray, reads: str) -> np.ndarray:
    """What a ControlNet is shown of a picture: its lightness, or its outlines white on black; (Y, X) uint8."""
    grey = (cv2.cvtColor(picture.clip(0, 1).astype(np.float32), cv2.COLOR_RGB2GRAY) * 255).astype(np.uint8)
    return cv2.Canny(cv2.GaussianBlur(grey, (0, 0), 1.0), 80, 160) if reads == "canny" else grey
