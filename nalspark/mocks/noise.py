"""Residuals of real sky fibers: the noise of an instrument as it is, for mock spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nalspark.errors import NalsparkError, UnusableSpectrum
from nalspark.mocks.recipes import SkyNoise
from nalspark.spectra.grid import LATTICE
from nalspark.spectra.regrid import place_on_grid
from nalspark.surveys.reader import open_spectrum

#: Fraction of the grid's pixels that a sky fiber must have.
_LEAST_COVERED = 0.8


def sky_noise(folder: str | Path) -> SkyNoise:
    """Read the sky fibers in a folder, on the common grid.

    Parameters
    ----------
    folder : path
        Sky-fiber spectra in the survey's format. Files that cannot be read, or cover too little of the grid, are passed over. All are held
        in memory: some hundred are enough.

    Raises
    ------
    NalsparkError
        Where there is no usable one.
    """
    found = []
    for path in sorted(Path(folder).glob("*.fit*")):
        try:
            found.append(open_spectrum(path))
        except UnusableSpectrum:
            continue
    if found:
        origin = [sky.loglam if sky.loglam is not None else int(sky.first_pixel or 0) for sky in found]
        spectra = place_on_grid([s.flux for s in found], [s.ivar for s in found], [s.mask for s in found], origin, LATTICE)
        enough = (spectra.ivar > 0).mean(axis=1) >= _LEAST_COVERED
        if enough.any():
            # What a sky fiber has beside noise, the mean level of its surroundings, is not noise.
            level = np.median(np.where(spectra.ivar[enough] > 0, spectra.flux[enough], 0.0), axis=1, keepdims=True)
            return SkyNoise((spectra.flux[enough] - level).astype(np.float32), spectra.ivar[enough], spectra.mask[enough])
    raise NalsparkError(f"There is no usable sky-fiber spectrum (*.fits, *.fit) in '{folder}'; simulate.sky must name a folder of them.")
