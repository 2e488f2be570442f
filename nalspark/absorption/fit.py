"""The doublet fit: two Gaussian lines with one redshift and one width, free amplitudes, and a straight continuum correction.

The model of the residual r = 1 - flux/continuum, u pixels from the candidate's pixel:
``r(u) = A₁ g(u - ε) + A₂ g(u - ε - offset) + c₀ + c₁ u``, g a Gaussian of σ = s pixels. Six parameters, fitted to many candidates at
once by Levenberg–Marquardt. Broad Gaussian priors on ln s and on the continuum correction keep the fit of a faint doublet finite. All
errors come from the full covariance matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption.images import HALF_WIDTH, ImageGeometry

Array = NDArray[np.float64]

#: Order of the parameters.
EPSILON, LOG_WIDTH, FIRST, SECOND, LEVEL, SLOPE = range(6)
#: Bounds of s in pixels: just below the instrument's σ, and the widest that still leaves continuum in the image.
WIDTH_BOUNDS = (0.75, 9.0)
#: Pixels beyond the doublet's centres that take part in the fit.
_MARGIN = 18
_ITERATIONS = 30
#: Priors, mean and standard deviation: none on ε and the amplitudes.
_PRIOR_MEAN = np.array([0.0, np.log(1.6), 0.0, 0.0, 0.0, 0.0])
_PRIOR_SIGMA = np.array([np.inf, 0.6, np.inf, np.inf, 0.15, 0.01])
_PRIOR_PRECISION = _PRIOR_SIGMA**-2.0
#: Keeps the normal matrix invertible where a line is not covered at all.
_FLOOR = np.array([1e-3, 0.0, 1e-6, 1e-6, 0.0, 0.0])


@dataclass(frozen=True)
class DoubletFit:
    """Result of :func:`fit_doublets`; m candidates.

    Attributes
    ----------
    parameters : ndarray, shape (m, 6)
        ε (pixels), ln s, A₁, A₂, c₀, c₁.
    covariance : ndarray, shape (m, 6, 6)
    chi2_reduced : ndarray, shape (m,)
    coverage : ndarray, shape (m,)
        Smaller of the two lines' fractions of usable pixels.
    contamination : ndarray, shape (m,)
        Largest averaged deviation of pixels beside the lines, in σ.
    split, split_error : ndarray, shape (m,)
        How much farther apart than the doublet the two lines are, pixels.
    """

    parameters: Array
    covariance: Array
    chi2_reduced: Array
    coverage: Array
    contamination: Array
    split: Array
    split_error: Array


def _model(u: Array, parameters: Array, offset: float) -> tuple[Array, Array]:
    """Model (m, q) and its derivatives (m, q, 6) at pixels u (q,)."""
    epsilon, log_width, first, second, level, slope = (parameters[:, k, None] for k in range(6))
    width = np.exp(log_width)
    jacobian = np.empty((*np.broadcast_shapes(epsilon.shape, u[None].shape), 6))
    value = level + slope * u
    jacobian[..., 0] = jacobian[..., 1] = 0.0
    for column, amplitude, shift in ((2, first, 0.0), (3, second, offset)):
        x = (u - epsilon - shift) / width
        profile = np.exp(-0.5 * x**2)
        value = value + amplitude * profile
        jacobian[..., 0] += amplitude * profile * x / width
        jacobian[..., 1] += amplitude * profile * x**2
        jacobian[..., column] = profile
    jacobian[..., 4] = 1.0
    jacobian[..., 5] = u
    return value, jacobian


def _normal_equations(residual: Array, weight: Array, u: Array, parameters: Array, offset: float) -> tuple[Array, Array, Array]:
    """Curvature matrix (m, 6, 6), downhill vector (m, 6) and objective χ² + priors (m,)."""
    value, jacobian = _model(u, parameters, offset)
    left = residual - value
    weighted = jacobian * weight[..., None]
    pull = _PRIOR_MEAN - parameters
    matrix = np.einsum("mqi,mqj->mij", weighted, jacobian) + np.diag(_PRIOR_PRECISION)
    vector = np.einsum("mqi,mq->mi", weighted, left) + _PRIOR_PRECISION * pull
    return matrix, vector, np.einsum("mq,mq->m", weight, left**2) + (_PRIOR_PRECISION * pull**2).sum(axis=1)


def _levenberg_marquardt(residual: Array, weight: Array, u: Array, start: Array, offset: float) -> Array:
    """Minimise χ² from `start`, all candidates at once; shape (m, 6)."""
    lowest = np.array([-6.0, np.log(WIDTH_BOUNDS[0]), -np.inf, -np.inf, -np.inf, -np.inf])
    highest = np.array([6.0, np.log(WIDTH_BOUNDS[1]), np.inf, np.inf, np.inf, np.inf])
    parameters, damping = start.copy(), np.full(len(start), 1e-2)
    matrix, vector, chi2 = _normal_equations(residual, weight, u, parameters, offset)
    diagonal = np.eye(6)
    for _ in range(_ITERATIONS):
        scale = np.einsum("mii->mi", matrix) * damping[:, None] + _FLOOR
        step = np.linalg.solve(matrix + scale[:, None, :] * diagonal, vector[..., None])[..., 0]
        trial = np.clip(parameters + step, lowest, highest)
        new = _normal_equations(residual, weight, u, trial, offset)
        better = new[2] <= chi2
        damping = np.where(better, damping * 0.3, damping * 8.0)
        parameters = np.where(better[:, None], trial, parameters)
        matrix = np.where(better[:, None, None], new[0], matrix)
        vector = np.where(better[:, None], new[1], vector)
        chi2 = np.where(better, new[2], chi2)
    return parameters


def doublet_pixels(image: Array, geometry: ImageGeometry) -> tuple[Array, Array]:
    """Give the contiguous pixels of the doublet from its two rows.

    Parameters
    ----------
    image : ndarray, shape (m, t, c)

    Returns
    -------
    values : ndarray, shape (m, q)
    u : ndarray, shape (q,)
        Pixels from the candidate's pixel.
    """
    gap = int(geometry.offsets[geometry.secondary])
    first, second = image[:, geometry.primary], image[:, geometry.secondary]
    values = np.concatenate([first, second[:, max(2 * HALF_WIDTH + 1 - gap, 0) :]], axis=1)
    u = np.concatenate([np.arange(-HALF_WIDTH, HALF_WIDTH + 1), np.arange(HALF_WIDTH + 1, HALF_WIDTH + 1 + gap)]).astype(float)
    return values.astype(float), u


def _line_start(residual: Array, weight: Array, u: Array, width: Array, offset: float) -> Array:
    """Starting parameters: amplitudes of the matched filter at ε = 0."""
    start = np.zeros((len(residual), 6))
    start[:, LOG_WIDTH] = np.log(np.clip(width, *WIDTH_BOUNDS))
    for column, shift in ((FIRST, 0.0), (SECOND, offset)):
        profile = np.exp(-0.5 * ((u - shift) / width[:, None]) ** 2)
        power = (weight * profile**2).sum(axis=1)
        start[:, column] = (weight * profile * residual).sum(axis=1) / np.maximum(power, 1e-12)
    return start


def _split(left: Array, weight: Array, u: Array, parameters: Array, offset: float) -> tuple[Array, Array]:
    """One Newton step of each line's own centre from the common fit: their difference and its error, pixels."""
    width = np.exp(parameters[:, LOG_WIDTH, None])
    shifts, variances = [], []
    for column, shift in ((FIRST, 0.0), (SECOND, offset)):
        x = (u - parameters[:, EPSILON, None] - shift) / width
        slope = parameters[:, column, None] * np.exp(-0.5 * x**2) * x / width
        power = np.maximum((weight * slope**2).sum(axis=1), 1e-12)
        shifts.append((weight * slope * left).sum(axis=1) / power)
        variances.append(1.0 / power)
    return shifts[1] - shifts[0], np.sqrt(variances[0] + variances[1])


def fit_doublets(residual: Array, inverse_error: Array, width: Array, geometry: ImageGeometry, offset: float) -> DoubletFit:
    """Fit every candidate's doublet.

    Parameters
    ----------
    residual, inverse_error : ndarray, shape (m, t, c)
        Candidate images: 1 - flux/continuum, and its inverse standard error (0 where masked).
    width : ndarray, shape (m,)
        Starting σ in pixels.
    geometry : ImageGeometry
    offset : float
        Pixels between the two lines.
    """
    value, u = doublet_pixels(residual, geometry)
    weight = doublet_pixels(inverse_error, geometry)[0] ** 2
    weight = np.where((u >= -_MARGIN - 3) & (u <= offset + _MARGIN + 3), weight, 0.0)
    parameters = _levenberg_marquardt(value, weight, u, _line_start(value, weight, u, width, offset), offset)
    # Other absorption beside the lines must not tilt the continuum: pixels that deviate there are dropped, and the fit is repeated.
    beside = _beside_lines(u, parameters, offset)
    deviation = (value - _model(u, parameters, offset)[0]) * np.sqrt(weight)
    outlier = beside & (np.abs(deviation) > 3.0)
    outlier[:, 1:] |= outlier[:, :-1] & beside[:, 1:]
    outlier[:, :-1] |= outlier[:, 1:] & beside[:, :-1]
    kept = np.where(outlier, 0.0, weight)
    parameters = _levenberg_marquardt(value, kept, u, parameters, offset)
    return _summary(value, weight, kept, u, parameters, offset)


def _beside_lines(u: Array, parameters: Array, offset: float) -> NDArray[np.bool_]:
    centre, width = parameters[:, EPSILON, None], np.exp(parameters[:, LOG_WIDTH, None])
    return (np.abs(u - centre) > 2.5 * width + 1.0) & (np.abs(u - centre - offset) > 2.5 * width + 1.0)


def _summary(value: Array, weight: Array, kept: Array, u: Array, parameters: Array, offset: float) -> DoubletFit:
    model, _ = _model(u, parameters, offset)
    matrix, _, _ = _normal_equations(value, kept, u, parameters, offset)
    covariance: Array = np.asarray(np.linalg.inv(matrix + np.diag(_FLOOR)), np.float64)
    left = value - model
    degrees = np.maximum((kept > 0).sum(axis=1) - 6, 1)
    chi2 = np.einsum("mq,mq->m", kept, left**2) / degrees
    # Many components are not one Gaussian: what the model misses is an error of its parameters too. The 1.4 leaves chance alone.
    covariance *= np.maximum(chi2 / 1.4, 1.0)[:, None, None]
    width = np.exp(parameters[:, LOG_WIDTH, None])
    inside = [np.abs(u - parameters[:, EPSILON, None] - shift) <= np.maximum(2.0 * width, 1.5) for shift in (0.0, offset)]
    coverage = [((weight > 0) & near).sum(axis=1) / np.maximum(near.sum(axis=1), 1) for near in inside]
    deviation = np.where(_beside_lines(u, parameters, offset), left * np.sqrt(weight), 0.0)
    three = (deviation[:, :-2] + deviation[:, 1:-1] + deviation[:, 2:]) / np.sqrt(3.0)
    split, split_error = _split(left, kept, u, parameters, offset)
    return DoubletFit(parameters, covariance, chi2, np.minimum(*coverage), three.max(axis=1), split, split_error)
