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
def _model(u: float, parameters: Array, offset: float, row: Array) -> float:
    """The model at a pixel; its derivatives are written to `row` (6,)."""
    width = np.exp(parameters[LOG_WIDTH])
    x, y = (u - parameters[EPSILON]) / width, (u - parameters[EPSILON] - offset) / width
    g, h = np.exp(-0.5 * x * x), np.exp(-0.5 * y * y)
    first, second = parameters[FIRST] * g, parameters[SECOND] * h
    row[EPSILON], row[LOG_WIDTH] = (first * x + second * y) / width, first * x * x + second * y * y
    row[FIRST], row[SECOND], row[LEVEL], row[SLOPE] = g, h, 1.0, u
    return parameters[LEVEL] + parameters[SLOPE] * u + first + second


@compiled
def _normal_equations(value: Array, weight: Array, u: Array, parameters: Array, offset: float, matrix: Array, vector: Array) -> float:
    """Write the curvature matrix (6, 6), its lower half, and the downhill vector (6,); give the objective χ² + priors."""
    row, objective = np.empty(6), 0.0
    for a in range(6):
        pull = _PRIOR_MEAN[a] - parameters[a]
        objective += _PRIOR_PRECISION[a] * pull * pull
        vector[a] = _PRIOR_PRECISION[a] * pull
        for b in range(a):
            matrix[a, b] = 0.0
        matrix[a, a] = _PRIOR_PRECISION[a]
    for i in range(len(u)):
        if weight[i] > 0.0:
            left = value[i] - _model(u[i], parameters, offset, row)
            objective += weight[i] * left * left
            for a in range(6):
                weighted = weight[i] * row[a]
                vector[a] += weighted * left
                for b in range(a + 1):
                    matrix[a, b] += weighted * row[b]
    return objective


@compiled
def _factorize(matrix: Array, damping: float, factor: Array) -> None:
    """Cholesky's lower factor of the matrix with its diagonal enlarged by the part `damping` and the floor."""
    for a in range(6):
        for b in range(a + 1):
            left = matrix[a, b]
            for c in range(b):
                left -= factor[a, c] * factor[b, c]
            if b < a:
                factor[a, b] = left / factor[b, b]
            else:
                factor[a, a] = np.sqrt(left + matrix[a, a] * damping + _FLOOR[a])


@compiled
def _solve(factor: Array, x: Array) -> None:
    """Solve L L' x = b in place."""
    for a in range(6):
        for b in range(a):
            x[a] -= factor[a, b] * x[b]
        x[a] /= factor[a, a]
    for a in range(5, -1, -1):
        for b in range(a + 1, 6):
            x[a] -= factor[b, a] * x[b]
        x[a] /= factor[a, a]


@compiled
def _levenberg_marquardt(value: Array, weight: Array, u: Array, parameters: Array, offset: float) -> Array:
    """Minimise χ² from `parameters`, in place, until a step would gain nothing; the curvature matrix there."""
    factor, matrix, new_matrix = np.empty((6, 6)), np.empty((6, 6)), np.empty((6, 6))
    vector, new_vector, step, trial = np.empty(6), np.empty(6), np.empty(6), np.empty(6)
    damping, objective = 1e-2, _normal_equations(value, weight, u, parameters, offset, matrix, vector)
    for _ in range(_ITERATIONS):
        _factorize(matrix, damping, factor)
        for a in range(6):
            step[a] = vector[a]
        _solve(factor, step)
        gain = 0.0
        for a in range(6):
            gain += step[a] * vector[a] * (1.0 + damping)
            trial[a] = min(max(parameters[a] + step[a], _LOWEST[a]), _HIGHEST[a])
        new_objective = _normal_equations(value, weight, u, trial, offset, new_matrix, new_vector)
        if new_objective <= objective:
            objective, matrix, new_matrix, vector, new_vector = new_objective, new_matrix, matrix, new_vector, vector
            for a in range(6):
                parameters[a] = trial[a]
            damping *= 0.3
        else:
            damping *= 8.0
        if gain < _SETTLED:
            break
    return matrix


def doublet_pixels(image: Array, geometry: ImageGeometry) -> tuple[Array, Array]:
    """Give the pixels of the doublet from its two rows: contiguous ones once each, or both rows where they lie apart.

    Parameters
    ----------
    image : ndarray, shape (m, t, c)

    Returns
    -------
    values : ndarray, shape (m, q)
    u : ndarray, shape (q,)
        Pixels from the candidate's pixel.
    """
    gap, columns = int(geometry.offsets[geometry.secondary]), np.arange(-HALF_WIDTH, HALF_WIDTH + 1)
    first, second = image[:, geometry.primary], image[:, geometry.secondary]
    new = max(len(columns) - gap, 0)
    values = np.concatenate([first, second[:, new:]], axis=1)
    return values.astype(float), np.concatenate([columns, gap + columns[new:]]).astype(float)


@compiled
def _line_start(value: Array, weight: Array, u: Array, width: float, offset: float, parameters: Array) -> None:
    """Write starting parameters: amplitudes of the matched filter at ε = 0."""
    parameters[:] = 0.0
    parameters[LOG_WIDTH] = np.log(min(max(width, WIDTH_BOUNDS[0]), WIDTH_BOUNDS[1]))
    for line in range(2):
        signal = power = 0.0
        for i in range(len(u)):
            x = (u[i] - line * offset) / width
            profile = np.exp(-0.5 * x * x)
            signal += weight[i] * profile * value[i]
            power += weight[i] * profile * profile
        parameters[FIRST + line] = signal / max(power, 1e-12)


@compiled
def _residuals(value: Array, u: Array, parameters: Array, offset: float) -> Array:
    """What the model leaves at each pixel."""
    left, row = np.empty(len(u)), np.empty(6)
    for i in range(len(u)):
        left[i] = value[i] - _model(u[i], parameters, offset, row)
    return left


@compiled
def _deviations(left: Array, weight: Array, u: Array, parameters: Array, offset: float) -> Array:
    """What is left at pixels beside the lines, in σ; 0 elsewhere."""
    deviation, reach = np.zeros(len(u)), 2.5 * np.exp(parameters[LOG_WIDTH]) + 1.0
    for i in range(len(u)):
        x = u[i] - parameters[EPSILON]
        if abs(x) > reach and abs(x - offset) > reach:
            deviation[i] = left[i] * np.sqrt(weight[i])
    return deviation


@compiled
def _without_outliers(deviation: Array, weight: Array) -> Array:
    """Weights with 0 at those pixels beside the lines that deviate by more than 3 σ, and at their neighbours there."""
    n, kept = len(weight), weight.copy()
    for i in range(n):
        if abs(deviation[i]) > 3.0:
            for j in range(max(i - 1, 0), min(i + 2, n)):
                if deviation[j] != 0.0:  # beside the lines
                    kept[j] = 0.0
    return kept


@compiled
def _chi2_reduced(left: Array, weight: Array) -> float:
    chi2, freedom = 0.0, -6
    for i in range(len(left)):
        chi2 += weight[i] * left[i] * left[i]
        freedom += weight[i] > 0.0
    return chi2 / max(freedom, 1)


@compiled
def _coverage(weight: Array, u: Array, parameters: Array, offset: float) -> float:
    """Smaller of the two lines' fractions of usable pixels."""
    reach, least = max(2.0 * np.exp(parameters[LOG_WIDTH]), 1.5), 1.0
    for line in range(2):
        near = good = 0
        for i in range(len(u)):
            if abs(u[i] - parameters[EPSILON] - line * offset) <= reach:
                near += 1
                good += weight[i] > 0.0
        least = min(least, good / max(near, 1))
    return least


@compiled
def _contamination(deviation: Array) -> float:
    """Largest deviation of three pixels together."""
    most = -np.inf
    for i in range(1, len(deviation) - 1):
        most = max(most, (deviation[i - 1] + deviation[i] + deviation[i + 1]) / np.sqrt(3.0))
    return most


@compiled
def _split(left: Array, weight: Array, u: Array, parameters: Array, offset: float) -> tuple[float, float]:
    """One Newton step of each line's own centre from the common fit: their difference and its error, pixels."""
    width, split, variance = np.exp(parameters[LOG_WIDTH]), 0.0, 0.0
    for line in range(2):
        signal = power = 0.0
        for i in range(len(u)):
            x = (u[i] - parameters[EPSILON] - line * offset) / width
            slope = parameters[FIRST + line] * np.exp(-0.5 * x * x) * x / width
            signal += weight[i] * slope * left[i]
            power += weight[i] * slope * slope
        power = max(power, 1e-12)
        split += (2 * line - 1) * signal / power
        variance += 1.0 / power
    return split, np.sqrt(variance)


@compiled
def _fit_each(value: Array, weight: Array, u: Array, width: Array, offset: float, results: tuple[Array, Array, Array]) -> None:
    """Write every candidate's parameters, their covariance, and the other numbers of :class:`DoubletFit` in their order."""
    factor = np.empty((6, 6))
    for k in range(len(value)):
        parameters, covariance, others = results[0][k], results[1][k], results[2][k]
        _line_start(value[k], weight[k], u, width[k], offset, parameters)
        _levenberg_marquardt(value[k], weight[k], u, parameters, offset)
        # Other absorption beside the lines must not tilt the continuum: pixels that deviate there are dropped, and the fit is repeated.
        left = _residuals(value[k], u, parameters, offset)
        kept = _without_outliers(_deviations(left, weight[k], u, parameters, offset), weight[k])
        _factorize(_levenberg_marquardt(value[k], kept, u, parameters, offset), 0.0, factor)
        left = _residuals(value[k], u, parameters, offset)
        others[0], others[1] = _chi2_reduced(left, kept), _coverage(weight[k], u, parameters, offset)
        others[2] = _contamination(_deviations(left, weight[k], u, parameters, offset))
        others[3], others[4] = _split(left, kept, u, parameters, offset)
        # Many components are not one Gaussian: what the model misses is an error of its parameters too. The 1.4 leaves chance alone.
        for a in range(6):
            covariance[a] = 0.0
            covariance[a, a] = max(others[0] / 1.4, 1.0)
            _solve(factor, covariance[a])


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
    _fit_each(value, weight, u, width.astype(float), float(offset), (parameters, covariance, others))
    return DoubletFit(parameters, covariance, *others.T)
