"""How much more a survey's spectra scatter at a wavelength than their errors say: on night-sky lines and at the ends, above all.

What :func:`nalspark.spectra.continuum.error_inflation` measures in each spectrum is a mean over 201 pixels; a sky line is four wide. The
factors are data in the package, one file per model, made from a survey's own spectra by ``python benchmarks/noise_model.py``.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from nalspark.spectra.grid import WavelengthGrid


@lru_cache(maxsize=8)
def noise_factor(model: str, grid: WavelengthGrid) -> NDArray[np.float64]:
    """Give the factor by which errors are multiplied, shape (p,); 1 where the errors are right.

    Parameters
    ----------
    model : str
        ``none``, or a model that ships with nalspark as ``noise_<model>.csv``.
    grid : WavelengthGrid
    """
    factor = np.ones(grid.n_pixels)
    if model != "none":
        text = resources.files("nalspark.spectra").joinpath(f"noise_{model}.csv").read_text(encoding="ascii")
        table = np.loadtxt(text.splitlines(), delimiter=",", comments="#")
        pixel = table[:, 0].astype(np.int64) - grid.first
        inside = (pixel >= 0) & (pixel < grid.n_pixels)
        factor[pixel[inside]] = table[inside, 1]
    factor.flags.writeable = False
    return factor
