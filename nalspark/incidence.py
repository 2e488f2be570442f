"""How frequent absorbers are, as others have published it: what mocks are drawn from, and what rates are compared with.

All laws are exponentials of the rest equivalent width of the first line, ``d²N/dz dW = (N*(z) / W*(z)) exp(-W / W*(z))``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nalspark.lines import LineSpecies

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PublishedLaw:
    """An exponential law whose two parameters depend on the redshift.

    Attributes
    ----------
    name : str
        Its authors.
    n_star : callable
        Redshifts, any shape → N*, absorbers of all W per unit redshift.
    w_star : callable
        Redshifts, any shape → W*, rest Å.
    z_range : tuple of float
        The redshifts that it was fitted for.
    """

    name: str
    n_star: Callable[[ArrayLike], Array]
    w_star: Callable[[ArrayLike], Array]
    z_range: tuple[float, float]

    def rate(self, z: ArrayLike, ew_min: ArrayLike) -> Array:
        """Compute dN/dz above a rest equivalent width (Å); both broadcast."""
        return self.n_star(z) * np.exp(-np.asarray(ew_min, dtype=float) / self.w_star(z))

    def density(self, z: ArrayLike, ew: ArrayLike) -> Array:
        """Compute d²N/dz dW per Å at a rest equivalent width (Å); both broadcast."""
        return self.rate(z, ew) / self.w_star(z)


def equivalent_width_scale(z: ArrayLike) -> Array:
    """Compute W*(z) in Å of Mg II 2796 (Zhu & Ménard 2013, eq. 8 and table 1)."""
    z = np.asarray(z, dtype=float)
    return 0.33 * (1 + z) ** 1.21 / (1 + (z / 2.24) ** 2.43)


def _zhu_menard_n_star(z: ArrayLike) -> Array:
    z = np.asarray(z, dtype=float)
    return 0.63 * (1 + z) ** 5.38 / (1 + (z / 0.41) ** 2.97) * equivalent_width_scale(z)


def _nestor_n_star(z: ArrayLike) -> Array:
    return 1.001 * (1 + np.asarray(z, dtype=float)) ** 0.226


def _nestor_w_star(z: ArrayLike) -> Array:
    return 0.443 * (1 + np.asarray(z, dtype=float)) ** 0.634


#: Zhu & Ménard 2013 (ApJ 770, 130), eqs. 7-9 and table 1, fitted for 0.6 < W < 5 Å; the exponential is continued beyond.
ZHU_MENARD_2013 = PublishedLaw("Zhu & Ménard 2013", _zhu_menard_n_star, equivalent_width_scale, (0.4, 2.3))
#: Nestor, Turnshek & Rao 2005 (ApJ 628, 637), §3, fitted for W ≥ 0.3 Å.
NESTOR_2005 = PublishedLaw("Nestor et al. 2005", _nestor_n_star, _nestor_w_star, (0.366, 2.269))
#: What rates of a species are compared with, by its name.
PUBLISHED_LAWS = {"MgII": (ZHU_MENARD_2013, NESTOR_2005)}


@lru_cache(maxsize=32)
def frequency_law(species: LineSpecies) -> PublishedLaw:
    """Give the law by which mock absorbers of a species are as frequent as real ones: the published one, else that of the species."""
    if species.name in PUBLISHED_LAWS:
        return PUBLISHED_LAWS[species.name][0]
    n_star, w_star = species.frequency
    return PublishedLaw(species.name, lambda z: np.full(np.shape(z), n_star), lambda z: np.full(np.shape(z), w_star), (0.0, 6.0))
