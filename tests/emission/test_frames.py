"""VIRUS frames, lists of detections and ready cut-outs: what is right is read, what is broken is refused with a reason."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from nalspark.emission.frames import (
    CUTOUT_SHAPE,
    PLANES,
    Frame,
    on_grid,
    read_cutouts,
    read_detections,
    read_frame,
    significance_frame,
    subtract_sky,
)
from nalspark.errors import CatalogError, UnusableSpectrum

WAVES = {"CRVAL1": 3500.0, "CDELT1": 1.9, "CRPIX1": 1.0}


def write_frame(folder, flux, error=None, header=WAVES, name="F1.fits"):
    fits.PrimaryHDU(np.asarray(flux, dtype=np.float32), fits.Header(header)).writeto(folder / name, overwrite=True)
    if error is not None:
        fits.PrimaryHDU(np.asarray(error, dtype=np.float32)).writeto(folder / f"e.{name}", overwrite=True)
    return folder / name


def sky_and_noise(fibers=24, pixels=1054, seed=1):
    """Fibers of different throughput under one sky with a bright line, errors of 3."""
    rng = np.random.default_rng(seed)
    sky = 100.0 + 200.0 * np.exp(-0.5 * ((np.arange(pixels) - 400) / 2.0) ** 2)
    return rng.uniform(0.5, 1.5, fibers)[:, None] * sky + rng.normal(0.0, 3.0, (fibers, pixels)), np.full((fibers, pixels), 3.0)


def test_a_frame_comes_with_its_errors_and_wavelengths(tmp_path):
    flux, error = sky_and_noise()
    flux[2, 5], error[3, 6] = np.nan, 0.0
    frame = read_frame(write_frame(tmp_path, flux, error))
    assert frame.wavelength[[0, -1]] == pytest.approx([3500.0, 3500.0 + 1.9 * 1053])
    assert frame.error[2, 5] == frame.error[3, 6] == frame.flux[2, 5] == 0.0
    assert (frame.error > 0).sum() == flux.size - 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("no error", "no_error_frame"), ("other shape", "error_frame_differs"), ("cube", "wrong_shape"), ("one fiber", "wrong_shape"),
        ("text", "not_readable"), ("empty", "not_readable"), ("no waves", "no_wavelengths"), ("nan waves", "no_wavelengths"),
        ("all nan", "no_usable_pixel"), ("no errors above 0", "no_usable_pixel"),
    ],
)  # fmt: skip
def test_a_broken_frame_is_refused_with_a_reason(tmp_path, fault, reason):
    flux, error = np.ones((12, 80)), np.ones((12, 80))
    header = {"no waves": {}, "nan waves": {**WAVES, "CDELT1": 0.0}}.get(fault, WAVES)
    flux = {"cube": np.ones((2, 12, 80)), "one fiber": np.ones((1, 80)), "all nan": flux * np.nan}.get(fault, flux)
    error = {"no error": None, "other shape": np.ones((12, 79)), "no errors above 0": -error}.get(fault, error)
    path = write_frame(tmp_path, flux, error, header)
    if fault in ("text", "empty"):
        path.write_text("no FITS" if fault == "text" else "")
    with pytest.raises(UnusableSpectrum) as refused:
        read_frame(path)
    assert refused.value.reason == reason and str(path.name) in refused.value.detail


def test_the_grid_keeps_a_constant_flux_and_knows_dead_pixels():
    wave = 3500.0 + 1.9 * np.arange(1054)
    error = np.full((1, 1054), 2.0, np.float32)
    error[0, 100:110] = 0.0
    new = on_grid(Frame(np.where(error > 0, 7.0, 0.0).astype(np.float32), error, wave))
    good = new.error[0] > 0
    assert len(new.wavelength) == 1001 and new.flux[0, good] == pytest.approx(7.0)
    assert not good[(new.wavelength > 3692) & (new.wavelength < 3706)].any() and good.sum() >= 985
    assert (new.error[0, good] <= 2.0 + 1e-6).all()  # a mean of several pixels is known no worse than one


def test_without_its_sky_a_frame_is_noise_in_which_lines_have_their_significance():
    flux, error = sky_and_noise()
    residual = subtract_sky(on_grid(Frame(flux.astype(np.float32), error.astype(np.float32), 3500.0 + 1.9 * np.arange(1054))))
    significance = residual.flux / residual.error
    assert abs(np.median(significance)) < 0.02
    sky_line = np.abs(residual.wavelength - (3500 + 1.9 * 400)) < 6
    assert np.abs(significance[:, sky_line].mean(axis=0)).max() < 1.5  # of 70 σ
    profile = np.exp(-0.5 * (np.arange(-6, 7) * 2 * 2.3548 / 5.6) ** 2)
    filtered = np.array([np.convolve(row, profile / np.sqrt((profile**2).sum()), "valid") for row in significance])
    assert 1.4826 * np.median(np.abs(filtered)) == pytest.approx(1.0, abs=0.05)


def test_the_real_frame_is_read(real_data):
    significance, wavelength = significance_frame(real_data / "hetdex" / "Fepses20160409T100026.3_094_sci_R.fits")
    assert significance.shape == (224, 1001) and wavelength[-1] == 5500.0
    assert np.isfinite(significance).mean() > 0.99 and 0.5 < np.nanstd(significance) < 1.5


@pytest.mark.parametrize("kind", ["csv", "parquet", "fits"])
def test_lists_of_detections(tmp_path, kind):
    table = pd.DataFrame({"frame": ["a.fits", "b.fits"], "fiber": [3, 4], "wavelength": [4000.0, 4100.5], "class": [5, -2]})
    path = tmp_path / f"list.{kind}"
    if kind == "fits":
        columns = [fits.Column("frame", "6A", array=table["frame"].to_list()), fits.Column("fiber", "J", array=table["fiber"])]
        columns += [fits.Column(name, "D", array=table[name]) for name in ("wavelength", "class")]
        fits.BinTableHDU.from_columns(columns).writeto(path)
    else:
        table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    read = read_detections(path)
    assert read["detection_id"].tolist() == ["list-0", "list-1"] and read["frame"].tolist() == ["a.fits", "b.fits"]
    assert read["wavelength"].tolist() == [4000.0, 4100.5] and read["class"].tolist() == [5.0, -2.0]


def test_a_list_without_a_column_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text("fiber,frame\n1,a\n")
    with pytest.raises(CatalogError, match="no column wavelength"):
        read_detections(tmp_path / "list.csv")
    with pytest.raises(CatalogError, match="cannot be read"):
        read_detections(tmp_path / "nothing.parquet")


def write_cutouts(path, images, classes, names):
    if path.suffix == ".parquet":
        planes = {name: pa.array([plane.tobytes() for plane in images[:, k]], pa.binary()) for k, name in enumerate(PLANES)}
        pq.write_table(pa.table({"detection_id": names, "class": classes, **planes}), path)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["image"], file["class"], file["detection_id"] = images, classes, names
    else:
        table = fits.BinTableHDU.from_columns(
            [fits.Column("detection_id", "4A", array=names), fits.Column("class", "J", array=np.array(classes))]
        )
        fits.HDUList([fits.PrimaryHDU(images), table]).writeto(path)


@pytest.mark.parametrize("kind", ["parquet", "h5", "fits"])
def test_ready_cutouts_in_three_formats(tmp_path, kind):
    images = np.random.default_rng(2).normal(size=(3, 5, *CUTOUT_SHAPE)).astype(np.float32)
    write_cutouts(tmp_path / f"c.{kind}", images, [5, 0, 9], ["a", "b", "c"])
    names, read, classes = read_cutouts(tmp_path / f"c.{kind}")
    np.testing.assert_array_equal(read, images)
    assert names == ["a", "b", "c"] and classes.tolist() == [5.0, 0.0, 9.0]


def test_cutouts_of_another_shape_are_refused(tmp_path):
    fits.PrimaryHDU(np.zeros((3, 4, 8, 32), np.float32)).writeto(tmp_path / "c.fits")
    with pytest.raises(CatalogError, match=r"have shape \(3, 4, 8, 32\)"):
        read_cutouts(tmp_path / "c.fits")
    (tmp_path / "d.h5").write_text("no HDF5")
    with pytest.raises(CatalogError, match="cannot be read"):
        read_cutouts(tmp_path / "d.h5")
