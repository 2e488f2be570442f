"""The doublet fit: two Gaussian lines with one redshift and one width, free amplitudes, and a straight continuum correction.

The model of the residual r = 1 - flux/continuum, u pixels from the candidate's pixel:
``r(u) = A₁ g(u - ε) + A₂ g(u - ε - offset) + c₀ + c₁ u``, g a Gaussian of σ = s pixels. Six parameters, fitted candidate by candidate in
compiled loops by Levenberg–Marquardt. Broad Gaussian priors on ln s and on the continuum correction keep the fit of a faint doublet
finite. All errors come from the full covariance matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nalspark.absorption.images import HALF_WIDTH, ImageGeometry
from nalspark.compiled import compiled

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Order of the parameters.
EPSILON, LOG_WIDTH, FIRST, SECOND, LEVEL, SLOPE = range(6)
#: Bounds of s in pixels: just below the instrument's σ, and the widest that still leaves continuum in the image.
WIDTH_BOUNDS = (0.75, 9.0)
#: Pixels beyond the doublet's centres that take part in the fit.
_MARGIN = 18
#: Most steps of a fit, and the χ² that a step must promise for another one: 1e-10 is 1e-5 of a standard error.
_ITERATIONS, _SETTLED = 30, 1e-10
#: Bounds of the parameters.
_LOWEST = np.array([-6.0, np.log(WIDTH_BOUNDS[0]), -np.inf, -np.inf, -np.inf, -np.inf])
_HIGHEST = np.array([6.0, np.log(WIDTH_BOUNDS[1]), np.inf, np.inf, np.inf, np.inf])
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


@compiled
def _model(u: Array, parameters: Array, offset: float) -> tuple[Array, Array]:
    """Model (q,) and its derivatives (q, 6) at pixels u (q,)."""
    epsilon, log_width, first, second, level, slope = parameters
    width, value, jacobian = np.exp(log_width), np.empty(len(u)), np.empty((len(u), 6))
    for i in range(len(u)):
        x, y = (u[i] - epsilon) / width, (u[i] - epsilon - offset) / width
        g, h = np.exp(-0.5 * x**2), np.exp(-0.5 * y**2)
        value[i] = level + slope * u[i] + first * g + second * h
        row = jacobian[i]
        row[0], row[1] = (first * g * x + second * h * y) / width, first * g * x**2 + second * h * y**2
        row[2], row[3], row[4], row[5] = g, h, 1.0, u[i]
    return value, jacobian


@compiled
def _normal_equations(residual: Array, weight: Array, u: Array, parameters: Array, offset: float) -> tuple[Array, Array, float]:
    """Curvature matrix (6, 6), downhill vector (6,) and objective χ² + priors."""
    value, jacobian = _model(u, parameters, offset)
    pull = _PRIOR_MEAN - parameters
    matrix, vector, objective = np.diag(_PRIOR_PRECISION), _PRIOR_PRECISION * pull, (_PRIOR_PRECISION * pull**2).sum()
    for i in range(len(u)):
        left, row = residual[i] - value[i], jacobian[i]
        objective += weight[i] * left**2
        for a in range(6):
            weighted = weight[i] * row[a]
            vector[a] += weighted * left
            for b in range(6):
                matrix[a, b] += weighted * row[b]
    return matrix, vector, objective


@compiled
def _levenberg_marquardt(residual: Array, weight: Array, u: Array, start: Array, offset: float) -> Array:
    """Minimise χ² from `start`, until a step would gain nothing."""
    parameters, damping = start, 1e-2
    matrix, vector, objective = _normal_equations(residual, weight, u, parameters, offset)
    for _ in range(_ITERATIONS):
        step = np.linalg.solve(matrix + np.diag(np.diag(matrix) * damping + _FLOOR), vector)
        trial = np.minimum(np.maximum(parameters + step, _LOWEST), _HIGHEST)
        new_matrix, new_vector, new_objective = _normal_equations(residual, weight, u, trial, offset)
        settled = (step * vector).sum() * (1.0 + damping) < _SETTLED
        if new_objective <= objective:
            parameters, matrix, vector, objective = trial, new_matrix, new_vector, new_objective
            damping *= 0.3
        else:
            damping *= 8.0
        if settled:
            break
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


@compiled
def _line_start(residual: Array, weight: Array, u: Array, width: float, offset: float) -> Array:
    """Starting parameters: amplitudes of the matched filter at ε = 0."""
    start = np.zeros(6)
    start[LOG_WIDTH] = np.log(min(max(width, WIDTH_BOUNDS[0]), WIDTH_BOUNDS[1]))
    for column, shift in ((FIRST, 0.0), (SECOND, offset)):
        profile = np.exp(-0.5 * ((u - shift) / width) ** 2)
        start[column] = (weight * profile * residual).sum() / max((weight * profile**2).sum(), 1e-12)
    return start


@compiled
def _beside_lines(u: Array, parameters: Array, offset: float) -> Flags:
    centre, reach = parameters[EPSILON], 2.5 * np.exp(parameters[LOG_WIDTH]) + 1.0
    return (np.abs(u - centre) > reach) & (np.abs(u - centre - offset) > reach)


@compiled
def _without_outliers(deviation: Array, beside: Flags, weight: Array) -> Array:
    """Weights with 0 at those pixels `beside` the lines that deviate by more than 3 σ, and at their neighbours."""
    outlier = beside & (np.abs(deviation) > 3.0)
    near = outlier.copy()
    near[1:] |= outlier[:-1]
    near[:-1] |= outlier[1:]
    return np.where(near & beside, 0.0, weight)


@compiled
def _split(left: Array, weight: Array, u: Array, parameters: Array, offset: float) -> tuple[float, float]:
    """One Newton step of each line's own centre from the common fit: their difference and its error, pixels."""
    width, split, variance = np.exp(parameters[LOG_WIDTH]), 0.0, 0.0
    for column, shift, sign in ((FIRST, 0.0, -1.0), (SECOND, offset, 1.0)):
        x = (u - parameters[EPSILON] - shift) / width
        slope = parameters[column] * np.exp(-0.5 * x**2) * x / width
        power = max((weight * slope**2).sum(), 1e-12)
        split += sign * (weight * slope * left).sum() / power
        variance += 1.0 / power
    return split, np.sqrt(variance)


@compiled
def _coverage(weight: Array, u: Array, parameters: Array, offset: float) -> float:
    """Smaller of the two lines' fractions of usable pixels."""
    reach, least = max(2.0 * np.exp(parameters[LOG_WIDTH]), 1.5), 1.0
    for shift in (0.0, offset):
        near = np.abs(u - parameters[EPSILON] - shift) <= reach
        least = min(least, (near & (weight > 0)).sum() / max(near.sum(), 1))
    return least


@compiled
def _fit(value: Array, weight: Array, u: Array, width: float, offset: float, covariance: Array) -> tuple[Array, tuple[float, ...]]:
    """Parameters of one candidate, what follows them in :class:`DoubletFit`, and, written to `covariance` (6, 6), theirs."""
    used = weight > 0
    parameters = _levenberg_marquardt(value[used], weight[used], u[used], _line_start(value, weight, u, width, offset), offset)
    # Other absorption beside the lines must not tilt the continuum: pixels that deviate there are dropped, and the fit is repeated.
    deviation = (value - _model(u, parameters, offset)[0]) * np.sqrt(weight)
    kept = _without_outliers(deviation, _beside_lines(u, parameters, offset), weight)
    used = kept > 0
    parameters = _levenberg_marquardt(value[used], kept[used], u[used], parameters, offset)
    matrix, _, _ = _normal_equations(value, kept, u, parameters, offset)
    left = value - _model(u, parameters, offset)[0]
    chi2 = (kept * left**2).sum() / max(used.sum() - 6, 1)
    # Many components are not one Gaussian: what the model misses is an error of its parameters too. The 1.4 leaves chance alone.
    covariance[:] = np.linalg.inv(matrix + np.diag(_FLOOR)) * max(chi2 / 1.4, 1.0)
    deviation = np.where(_beside_lines(u, parameters, offset), left * np.sqrt(weight), 0.0)
    contamination = (deviation[:-2] + deviation[1:-1] + deviation[2:]).max() / np.sqrt(3.0)
    split, split_error = _split(left, kept, u, parameters, offset)
    return parameters, (chi2, _coverage(weight, u, parameters, offset), contamination, split, split_error)


@compiled
def _fit_each(value: Array, weight: Array, u: Array, width: Array, offset: float, results: tuple[Array, Array, Array]) -> None:
    parameters, covariance, others = results
    for k in range(len(value)):
        parameters[k], others[k] = _fit(value[k], weight[k], u, width[k], offset, covariance[k])


def fit_doublets(residual: Array, inverse_error: Array, width: Array, geometry: ImageGeometry, offset: float) -> DoubletFit:
    """Fit every candidate's doublet; a candidate's result does not depend on the others.

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
    weight[:, (u < -_MARGIN - 3) | (u > offset + _MARGIN + 3)] = 0.0
    parameters, covariance, others = np.empty((len(value), 6)), np.empty((len(value), 6, 6)), np.empty((len(value), 5))
    _fit_each(value, weight, u, width.astype(float), offset, (parameters, covariance, others))
    return DoubletFit(parameters, covariance, *others.T)
