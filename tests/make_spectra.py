"""Factories: Gaussian doublets on the pixel axis, candidate images of them, and quasars whose continuum is known."""

from __future__ import annotations

from functools import cache

import numpy as np

from nalspark.absorption.chain import Searchable, detect, prepare, scorer
from nalspark.absorption.images import HALF_WIDTH, ImageGeometry, cut_images
from nalspark.learning.models import Detector, read_model
from nalspark.lines import MG_II
from nalspark.settings import load
from nalspark.spectra.batch import Spectra
from nalspark.spectra.grid import LATTICE

STEP = LATTICE.step
#: Pixels between the lines of the Mg II doublet.
OFFSET = MG_II.offset_pixels(MG_II.secondary, STEP)
#: Å of rest wavelength per pixel, and W of a Gaussian of unit depth and σ = 1 pixel, for each transition by label.
ANGSTROM = {line.label: line.wavelength * np.log(10.0) * STEP for line in MG_II.transitions}
UNIT_WIDTH = {label: np.sqrt(2.0 * np.pi) * angstrom for label, angstrom in ANGSTROM.items()}


def lines_at(*lines, n_pixels=LATTICE.n_pixels):
    """1 - flux/continuum of Gaussian lines given as (centre, depth, σ), in pixels; shape (p,)."""
    x = np.arange(n_pixels)
    return sum(depth * np.exp(-0.5 * ((x - centre) / sigma) ** 2) for centre, depth, sigma in lines)


def doublet(centre, depth, ratio=1.5, sigma=1.8, offset=OFFSET):
    """The two lines of a doublet, for :func:`lines_at`."""
    return (centre, depth, sigma), (centre + offset, depth / ratio, sigma)


def system(centre, depth, ratio=1.5, sigma=1.8):
    """An absorber's doublet and, half as deep, its Fe II lines, for :func:`lines_at`."""
    iron = [line for line in MG_II.transitions if line.ion == "Fe II"]
    return (*doublet(centre, depth, ratio, sigma), *((centre + MG_II.offset_pixels(line, STEP), depth / 2, sigma) for line in iron))


def make_images(epsilon, sigma, first, second, *, error=0.05, noise=None, companions=None, extra=(), masked=(), split=0.0):
    """Candidate images of Gaussian doublets; everything that varies between candidates is of shape (m,).

    Parameters
    ----------
    epsilon : array_like, the first line's centre minus the candidate's pixel
    sigma, first, second : array_like, pixels and depths
    error : float, standard error of a pixel
    noise : Generator, optional; without it the images are exact
    companions : dict of label → depth
    extra : (u, depth, σ) of other lines, u in pixels from the candidate's pixel
    masked : u of pixels without data
    split : pixels by which the lines are farther apart than the doublet

    Returns
    -------
    residual, inverse_error : ndarray, shape (m, t, c)
    """
    epsilon, sigma, first, second = (
        np.asarray(v, dtype=float)[:, None] for v in np.broadcast_arrays(*np.atleast_1d(epsilon, sigma, first, second))
    )
    geometry = ImageGeometry.of(MG_II, STEP)
    origin = HALF_WIDTH - int(geometry.offsets.min())  # the candidate's pixel on an axis that holds all rows
    u = np.arange(origin + int(geometry.offsets.max()) + HALF_WIDTH + 1) - origin
    values = np.zeros((len(epsilon), len(u)))
    depths = {"2796": (0.0, first), "2803": (split, second), **{label: (0.0, depth) for label, depth in (companions or {}).items()}}
    for line in MG_II.transitions:
        shift, depth = depths.get(line.label, (0.0, 0.0))
        values += depth * np.exp(-0.5 * ((u - epsilon - shift - MG_II.offset_pixels(line, STEP)) / sigma) ** 2)
    for centre, depth, width in extra:
        values += depth * np.exp(-0.5 * ((u - centre) / width) ** 2)
    if noise is not None:
        values += error * noise.standard_normal(values.shape)
    inverse = np.full(values.shape, 1.0 / error)
    inverse[:, np.asarray(masked, dtype=int) + origin] = 0.0
    values = np.where(inverse > 0, values, 0.0)
    row, pixel = np.arange(len(values)), np.full(len(values), origin)
    return tuple(cut_images(array.astype(np.float32), row, pixel, geometry) for array in (values, inverse))


def quasar_continuum(z_qso, grid=LATTICE):
    """A power law with broad C IV, C III] and Mg II emission; shape (p,), of order 1."""
    rest = grid.wavelength / (1.0 + z_qso)
    flux = (rest / 2500.0) ** -1.5
    for centre, height, sigma in ((1549.0, 0.8, 18.0), (1908.0, 0.4, 22.0), (2799.0, 0.5, 35.0), (2799.0, 0.3, 12.0)):
        flux = flux + height * np.exp(-0.5 * ((rest - centre) / sigma) ** 2)
    return flux


def make_spectra(z_qso, snr, *, seed=1, absorbed=None, scale=1.0, grid=LATTICE):
    """Noisy quasars.

    Parameters
    ----------
    z_qso : array_like, shape (n,)
    snr : signal-to-noise ratio of the continuum, the same in every pixel
    absorbed : ndarray, shape (n, p), optional: fraction of the light that absorbers take away

    Returns
    -------
    Spectra
    """
    true = scale * np.array([quasar_continuum(z, grid) for z in z_qso])
    sigma = true / snr
    rng = np.random.default_rng(seed)
    flux = true * (1.0 - (0.0 if absorbed is None else absorbed)) + sigma * rng.standard_normal(true.shape)
    return Spectra(flux.astype(np.float32), (sigma**-2).astype(np.float32), np.zeros(true.shape, dtype=np.uint8), grid)


@cache
def detector() -> Detector:
    """The network that ships with nalspark."""
    return read_model().load()


def find(spectra, z_qso, overrides=()):
    """Spectra through the whole chain, the network's part included: what was measured by column, and the candidates measured."""
    settings, z = load(None, overrides), np.asarray(z_qso, dtype=float)
    network = scorer(detector().predict, detector().card.inputs, settings)
    detections = detect(Searchable.of(prepare(spectra, z, settings), z), network, settings)
    return detections.measured, detections.candidates.take(detections.kept)
