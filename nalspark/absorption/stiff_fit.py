"""A curve of components that are not negative, fitted to a spectrum of which some is absorbed.

First the pixels below the curve weigh less, as in asymmetric least squares (Eilers & Boelens 2005); then troughs are left out, round after
round.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nalspark.compiled import compiled

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Relative error that the model is trusted to: one bin of a bright emission line must not rule the fit.
_FLOOR = 0.02
#: Rounds of unequal weights, the weight below the curve relative to that above, and rounds of leaving troughs out.
_SOFT_ROUNDS, _BELOW, _HARD_ROUNDS = 6, 0.15, 12
#: A trough begins where the mean of three bins lies below the curve by this many standard errors and by this fraction, and extends to where
#: it no longer lies below by the second fraction.
_SIGNIFICANT, _DEEP, _SHALLOW = 3.0, 0.05, 0.02
#: Bins of the widest feature that is left out where there are no troughs: a line of another absorber.
_NARROW = 4
#: Bins above the curve by this many standard errors are left out.
_SPIKE = 4.0
#: Squared deviation, in σ, above which it does not matter how far a bin of a trough lies below.
_TROUGH_COSTS = 9.0
#: Rounds of coordinate descent of each fit.
_SWEEPS = 60


@compiled
def combine(components: Floats, amplitude: Floats, model: Floats) -> None:
    """Write the sum of the components."""
    for i in range(len(model)):
        total = 0.0
        for k in range(len(amplitude)):
            total += components[i, k] * amplitude[k]
        model[i] = total


@compiled
def fit_components(
    value: Floats, error: Floats, known: Flags, broad: Flags, components: Floats, prior: Floats, amplitude: Floats, root: Floats
) -> None:
    """Fit the bins of one spectrum, in place: `amplitude` (c,), and the triangle `root` (c, c) of their inverse covariance.

    The bins (b,) have a `value`, in units of the spectrum's typical level, its `error`, whether it is `known`, and whether troughs may be
    `broad` there; `components` (b, c) are what is added up, `prior` (c,) the inverse variances of the amplitudes about 0.

    Begun twice, with and without unequal weights: the first escapes from deep troughs, the second from emission lines that are not there.
    What leaves less unexplained is taken.
    """
    best = np.inf
    for soft in (_SOFT_ROUNDS, 1):
        trial, normal = np.zeros(len(amplitude)), np.zeros((len(amplitude), len(amplitude)))
        unexplained = _fit_from(value, error, known, broad, components, prior, soft, trial, normal)
        if unexplained < best:
            best = unexplained
            amplitude[:] = trial
            _triangle(normal, trial, root)


@compiled
def _fit_from(
    value: Floats,
    error: Floats,
    known: Flags,
    broad: Flags,
    components: Floats,
    prior: Floats,
    soft: int,
    amplitude: Floats,
    normal: Floats,
) -> float:
    """Fit with `soft` rounds of unequal weights, of which the first has equal ones; the sum of squares in σ, of which none counts more than
    :data:`_TROUGH_COSTS`, and of the prior.
    """
    n, weight, used, model = len(value), np.zeros(len(value)), known.copy(), np.zeros(len(value))
    for number in range(soft + _HARD_ROUNDS):
        for i in range(n):
            sigma = np.sqrt(error[i] ** 2 + (_FLOOR * max(model[i], value[i])) ** 2)
            weight[i] = 1.0 / sigma**2 if used[i] else 0.0
            if number < soft and value[i] < model[i] - sigma:
                weight[i] *= _BELOW
        _solve(value, weight, components, prior, amplitude, normal)
        combine(components, amplitude, model)
        if number >= soft - 1:
            changed = _leave_out(value, error, model, known, broad, used)
            if number >= soft and not changed:
                break
    unexplained = (prior * amplitude**2).sum()
    for i in range(n):
        if known[i]:
            unexplained += min((value[i] - model[i]) ** 2 / (error[i] ** 2 + (_FLOOR * value[i]) ** 2), _TROUGH_COSTS)
    return unexplained


@compiled
def _solve(value: Floats, weight: Floats, components: Floats, prior: Floats, amplitude: Floats, normal: Floats) -> None:
    """Weighted least squares without negative amplitudes, by coordinate descent (Franc et al. 2005) from the `amplitude` given."""
    n, c = components.shape
    right = np.zeros(c)
    normal[:] = np.diag(prior)
    for i in range(n):
        if weight[i] > 0:
            for j in range(c):
                scaled = weight[i] * components[i, j]
                right[j] += scaled * value[i]
                for k in range(c):
                    normal[j, k] += scaled * components[i, k]
    slope = -right
    for j in range(c):
        for k in range(c):
            slope[j] += normal[j, k] * amplitude[k]
    for _ in range(_SWEEPS):
        for j in range(c):
            new = max(amplitude[j] - slope[j] / normal[j, j], 0.0)
            step = new - amplitude[j]
            if step != 0.0:
                amplitude[j] = new
                for k in range(c):
                    slope[k] += step * normal[k, j]


@compiled
def _leave_out(value: Floats, error: Floats, model: Floats, known: Flags, broad: Flags, used: Flags) -> bool:
    """Decide anew which bins are `used`; say whether any has changed."""
    n, below, certain = len(value), np.zeros(len(value)), np.zeros(len(value))
    for i in range(n):
        total = weight = 0.0
        for j in range(max(i - 1, 0), min(i + 2, n)):
            if known[j]:
                total += (model[j] - value[j]) / error[j] ** 2
                weight += 1.0 / error[j] ** 2
        if weight > 0:
            below[i], certain[i] = total / weight / model[i], total / np.sqrt(weight)
    seed = (below > _DEEP) & (certain > _SIGNIFICANT)
    trough = seed.copy()
    for i in range(1, n):
        trough[i] = trough[i] or (trough[i - 1] and below[i] > _SHALLOW)
    for i in range(n - 2, -1, -1):
        trough[i] = trough[i] or (trough[i + 1] and below[i] > _SHALLOW)
    start = 0  # of a run where there are no broad troughs
    for i in range(n + 1):
        if i == n or broad[i] or not trough[i]:
            if i - start > _NARROW:
                trough[start:i] = False
            start = i + 1
    changed = False
    for i in range(n):
        now = known[i] and not trough[i] and value[i] - model[i] < _SPIKE * np.sqrt(error[i] ** 2 + (_FLOOR * model[i]) ** 2)
        changed = changed or now != used[i]
        used[i] = now
    return changed


@compiled
def _triangle(normal: Floats, amplitude: Floats, root: Floats) -> None:
    """Cholesky's triangle of the normal matrix of the amplitudes that are not 0."""
    for i in range(len(amplitude)):
        for j in range(i + 1):
            both = amplitude[i] > 0 and amplitude[j] > 0
            total = normal[i, j] if both else (1.0 if i == j else 0.0)
            for k in range(j):
                total -= root[i, k] * root[j, k]
            root[i, j] = np.sqrt(total) if i == j else total / root[j, j]
