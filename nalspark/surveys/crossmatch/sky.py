"""Positions on the sky: unit vectors, separations, HEALPix buckets, and the nearest neighbour within a radius.

Everything is done with unit vectors, so that right ascension wraps and the poles are points like any others. Buckets let the nearest
neighbours be searched piece by piece: a position to be matched lies in one bucket, a catalogue position is copied to every bucket that lies
within the radius of it. So each bucket knows all that it needs, and the answer is that of one search over the whole sky.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from astropy import units as u
from astropy_healpix import HEALPix
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

#: Order of the buckets: 12,288 of them, 1.8° wide. Fine enough to share out a survey of 1 % of the sky among a hundred workers.
BUCKET_ORDER = 5
#: Fine pixels are at least this many radii wide (square root of their area). The narrowest pixels, near the poles, are about half as wide
#: as that, so a pixel and its neighbours cover every circle of one radius around its points four times over.
_RADII_PER_PIXEL = 8.0
_MAX_ORDER = 20
_ARCSEC = np.degrees(1) * 3600
_NO_ROW = -1
_ROUNDING = 1e-9


def is_position(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Tell whether these are positions: finite, 0 ≤ ra ≤ 360, -90 ≤ dec ≤ 90.

    Parameters
    ----------
    ra, dec : ndarray, shape (n,), deg

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    with np.errstate(invalid="ignore"):
        return np.isfinite(ra) & np.isfinite(dec) & (ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90)


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Compute Cartesian unit vectors.

    Equal positions give equal vectors, to the last bit: 360° is 0°, and at a pole right ascension means nothing.

    Parameters
    ----------
    ra, dec : ndarray, shape (n,), deg

    Returns
    -------
    ndarray, shape (n, 3)
    """
    alpha = np.radians(np.where(np.abs(dec) == 90, 0.0, np.mod(ra, 360.0)))
    delta = np.radians(dec)
    across = np.where(np.abs(dec) == 90, 0.0, np.cos(delta))
    return np.stack([across * np.cos(alpha), across * np.sin(alpha), np.sin(delta)], axis=1)


def squared_chord(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute the squared length of the chord between unit vectors, shape (n, 3) each; always summed in the same order."""
    dx, dy, dz = (left - right).T
    return dx * dx + dy * dy + dz * dz


def separation_arcsec(chord2: np.ndarray) -> np.ndarray:
    """Compute the angular distance in arcsec from the squared chord; accurate to the rounding of positions, as arccos is not."""
    return 2 * np.arcsin(np.minimum(np.sqrt(chord2) / 2, 1.0)) * _ARCSEC


def fine_order(radius_arcsec: float) -> int:
    """Give the finest HEALPix order whose pixels are still safely wider than the radius; at least that of the buckets."""
    width_arcsec = np.sqrt(np.pi / 3) * _ARCSEC
    order = int(np.floor(np.log2(width_arcsec / (_RADII_PER_PIXEL * radius_arcsec)))) if radius_arcsec > 0 else _MAX_ORDER
    return int(np.clip(order, BUCKET_ORDER, _MAX_ORDER))


def fine_pixels(ra: np.ndarray, dec: np.ndarray, order: int) -> np.ndarray:
    """Compute the HEALPix pixels (nested) of valid positions: int64, shape (n,)."""
    return np.asarray(HEALPix(nside=2**order, order="nested").lonlat_to_healpix(ra * u.deg, dec * u.deg), dtype=np.int64)


def buckets(pixels: np.ndarray, order: int) -> np.ndarray:
    """Give the bucket of each fine pixel: int32, shape (n,)."""
    return (pixels >> (2 * (order - BUCKET_ORDER))).astype(np.int32)


def buckets_with_margin(pixels: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Give every bucket that is touched by a fine pixel or by one of its neighbours.

    Parameters
    ----------
    pixels : ndarray of int, shape (n,)
        Nested pixels of order `order`.
    order : int

    Returns
    -------
    indices : ndarray of int, shape (m,)
        Position in `pixels`; each occurs at least once.
    touched : ndarray of int32, shape (m,)
        The buckets; no pair of index and bucket occurs twice.
    """
    own = buckets(pixels, order)
    everyone = np.arange(len(pixels))
    depth = 2 * (order - BUCKET_ORDER)
    # The low bits interleave the x and y of a fine pixel within its bucket. Only pixels on the rim have neighbours in other buckets.
    x_bits = sum(1 << bit for bit in range(0, depth, 2))
    within = pixels & ((1 << depth) - 1)
    x, y = within & x_bits, (within >> 1) & x_bits
    rim = np.flatnonzero((x == 0) | (x == x_bits) | (y == 0) | (y == x_bits))
    with np.errstate(invalid="ignore"):
        around = np.asarray(HEALPix(nside=2**order, order="nested").neighbours(pixels[rim]), dtype=np.int64).reshape(8, -1)
    # Where three base pixels meet, a pixel has seven neighbours; the eighth is given as -1.
    other = np.where(around >= 0, buckets(around, order), own[rim])
    indices, touched = np.repeat(rim[None, :], 8, axis=0).ravel(), other.ravel()
    abroad = touched != own[indices]
    pairs = np.unique(np.stack([indices[abroad], touched[abroad].astype(np.int64)], axis=1), axis=0)
    return np.concatenate([everyone, pairs[:, 0]]), np.concatenate([own, pairs[:, 1].astype(np.int32)])


def designation(ra: np.ndarray, dec: np.ndarray) -> list[str]:
    """Name positions as the IAU recommends, ``JHHMMSS.ss+DDMMSS.s``, digits cut off and not rounded; `ra` and `dec` (n,) in deg."""
    names = []
    for hundredths, tenths, sign in zip(np.floor(ra % 360 * 24000), np.floor(np.abs(dec) * 36000), np.signbit(dec), strict=True):
        seconds, part = divmod(int(hundredths), 100)
        arcsec, tenth = divmod(int(tenths), 10)
        east = f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}.{part:02d}"
        north = f"{arcsec // 3600:02d}{arcsec // 60 % 60:02d}{arcsec % 60:02d}.{tenth}"
        names.append(f"J{east}{'-' if sign else '+'}{north}")
    return names


def groups(ra: np.ndarray, dec: np.ndarray, names: np.ndarray, radius_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    """Group positions: chains of them, each within a radius of the next.

    Parameters
    ----------
    ra, dec : ndarray, shape (n,), deg
    names : ndarray of str, shape (n,)
    radius_arcsec : float

    Returns
    -------
    first : ndarray of int, shape (n,)
        Of the group of each position, the one with the first name.
    size : ndarray of int, shape (n,)
        How many positions its group has.
    """
    pairs = KDTree(unit_vectors(ra, dec)).query_pairs(2 * np.sin(radius_arcsec / _ARCSEC / 2) + 1e-15, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(ra), len(ra)))
    group = connected_components(links, directed=False)[1]
    order = np.lexsort((names, group))
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    return order[starts][group], np.bincount(group)[group]


def _in_sky_order(ra: np.ndarray, dec: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors and rows of the distinct positions, of equal ones with the smallest row; neighbours on the sky are such in memory.

    A tree of points in such an order is built and searched several times faster.
    """
    pixels = fine_pixels(ra, dec, _MAX_ORDER)
    order = np.lexsort((rows, pixels))
    vectors = unit_vectors(ra[order], dec[order])
    # With the pixel: a pole lies in several, and the smallest row need not be in the first.
    new = ~pd.DataFrame(vectors).assign(pixel=pixels[order]).duplicated().to_numpy()
    return vectors[new], rows[order[new]]


def _settle(left: np.ndarray, tree: KDTree, rows: np.ndarray, chord2: float) -> tuple[int, float]:
    """Among the points as near to `left` as `chord2`, to within rounding: the row and squared chord of the winner."""
    close = np.array(tree.query_ball_point(left, np.sqrt(chord2) * (1 + _ROUNDING) + 1e-15))
    exact = squared_chord(left, tree.data[close])
    best = np.lexsort((rows[close], exact))[0]
    return int(rows[close[best]]), float(exact[best])


def _two_nearest(left: tuple[np.ndarray, np.ndarray], tree: KDTree, radius_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of positions, and the numbers of the two nearest points within the radius, shape (n, 2); ``tree.n`` is none."""
    seen = unit_vectors(*left)
    walk = np.argsort(fine_pixels(*left, _MAX_ORDER))
    reach = 2 * np.sin(radius_arcsec / _ARCSEC / 2) * (1 + _ROUNDING) + 1e-15
    two = np.empty((len(seen), 2), np.int64)
    two[walk] = tree.query(seen[walk], k=[1, 2], distance_upper_bound=reach)[1]
    return seen, two


def nearest(
    left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray], right_rows: np.ndarray, radius_arcsec: float
) -> tuple[np.ndarray, np.ndarray]:
    """Find for each position the nearest of others within a radius; of equally near ones that with the smallest row.

    Parameters
    ----------
    left : tuple of two ndarray, shape (n,), deg
        Right ascensions and declinations to be matched; all must be positions (see :func:`is_position`).
    right : tuple of two ndarray, shape (m,), deg
        Positions to choose from; copies of a row do no harm.
    right_rows : ndarray of int, shape (m,)
    radius_arcsec : float
        Largest separation, itself included.

    Returns
    -------
    rows : ndarray of int64, shape (n,)
        -1 where there is none within the radius.
    separations : ndarray, shape (n,), arcsec
        NaN where there is none.
    """
    rows, chord2 = np.full(len(left[0]), _NO_ROW, np.int64), np.full(len(left[0]), np.nan)
    if len(rows) == 0 or len(right_rows) == 0:
        return rows, chord2
    points, point_rows = _in_sky_order(*right, np.asarray(right_rows, np.int64))
    tree = KDTree(points)
    seen, two = _two_nearest(left, tree, radius_arcsec)
    found, rivals = np.flatnonzero(two[:, 0] < len(points)), np.flatnonzero(two[:, 1] < len(points))
    rows[found], chord2[found] = point_rows[two[found, 0]], squared_chord(seen[found], points[two[found, 0]])
    # The tree rounds in its own way: what is equally near to within rounding is compared again, so that the answer depends on no tree.
    second = squared_chord(seen[rivals], points[two[rivals, 1]])
    for index in rivals[second <= chord2[rivals] * (1 + _ROUNDING) + 1e-30]:
        rows[index], chord2[index] = _settle(seen[index], tree, point_rows, chord2[index])
    separations = separation_arcsec(chord2)
    outside = ~(separations <= radius_arcsec)
    rows[outside], separations[outside] = _NO_ROW, np.nan
    return rows, separations


def pairs(
    left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray], radius_arcsec: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find all pairs of positions within a radius.

    Parameters
    ----------
    left, right : tuple of two ndarray, shape (n,) and (m,), deg
        Right ascensions and declinations; all must be positions (see :func:`is_position`).
    radius_arcsec : float
        Largest separation, itself included.

    Returns
    -------
    left, right : ndarray of int, shape (k,)
        Numbers of the positions of each pair.
    separations : ndarray, shape (k,), arcsec
    """
    if len(left[0]) == 0 or len(right[0]) == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    ours, theirs = unit_vectors(*left), unit_vectors(*right)
    reach = 2 * np.sin(radius_arcsec / _ARCSEC / 2) * (1 + _ROUNDING) + 1e-15
    near = KDTree(theirs).query_ball_point(ours, reach, return_sorted=True)
    first = np.repeat(np.arange(len(ours)), [len(found) for found in near])
    second = np.concatenate([np.asarray(found, np.int64) for found in near])
    separations = separation_arcsec(squared_chord(ours[first], theirs[second]))
    inside = separations <= radius_arcsec
    return first[inside], second[inside], separations[inside]
