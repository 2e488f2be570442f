"""The crossmatch: the geometry against astropy, the stage against its rules and at several partitionings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy_healpix import HEALPix

from nalspark import settings as nalspark_settings
from nalspark.errors import CatalogError
from nalspark.surveys.catalogs import Catalog, open_catalog, read_rows
from nalspark.surveys.crossmatch import sky

ARCSEC = 1 / 3600


def near(ra: np.ndarray, dec: np.ndarray, arcsec: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions scattered by about `arcsec` around others, wherever these are."""
    moved = sky.unit_vectors(ra, dec) + rng.normal(0, np.radians(arcsec * ARCSEC), (len(ra), 3))
    return np.degrees(np.arctan2(moved[:, 1], moved[:, 0])) % 360, np.degrees(np.arctan2(moved[:, 2], np.hypot(moved[:, 0], moved[:, 1])))


def corners() -> tuple[np.ndarray, np.ndarray]:
    """The vertices of the base pixels of HEALPix: there three or four buckets meet."""
    grid = HEALPix(nside=1, order="nested")
    lon, lat = grid.boundaries_lonlat(np.arange(12), step=1)
    return lon.deg.ravel() % 360, lat.deg.ravel()


def hard_sky(n: int, seed: int, scatter: float = 0.6) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two skies with everything that is hard: clusters, poles, the wrap, corners of buckets, exact duplicates, unmatched positions."""
    rng = np.random.default_rng(seed)
    corner_ra, corner_dec = corners()
    centre_ra = np.concatenate([[0.0, 360.0, 0.0, 77.0, 180.0, 45.0], corner_ra, rng.uniform(0, 360, 20)])
    centre_dec = np.concatenate([[0.0, 0.0, 90.0, -90.0, 89.9999, 0.0], corner_dec, np.degrees(np.arcsin(rng.uniform(-1, 1, 20)))])
    pick = rng.integers(0, len(centre_ra), n)
    cluster = near(centre_ra[pick], centre_dec[pick], 30, rng)
    uniform = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    ra, dec = np.concatenate([cluster[0], uniform[0], centre_ra]), np.concatenate([cluster[1], uniform[1], centre_dec])
    other_ra, other_dec = near(ra, dec, scatter, rng)
    other_ra[::7], other_dec[::7] = ra[::7], dec[::7]
    shuffled = rng.permutation(len(ra))
    return ra, dec, other_ra[shuffled], other_dec[shuffled]


def by_astropy(
    ra: np.ndarray, dec: np.ndarray, other_ra: np.ndarray, other_dec: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    index, separation, _ = SkyCoord(ra * u.deg, dec * u.deg).match_to_catalog_sky(SkyCoord(other_ra * u.deg, other_dec * u.deg))
    inside = separation.arcsec <= radius
    return np.where(inside, index, -1), np.where(inside, separation.arcsec, np.nan)


# --- geometry, without Spark ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.05, 1.0, 10.0, 60.0])
def test_nearest_equals_astropy(radius: float) -> None:
    ra, dec, other_ra, other_dec = hard_sky(3000, seed=int(radius))
    rows, separations = sky.nearest((ra, dec), (other_ra, other_dec), np.arange(len(other_ra)), radius)
    expected, distance = by_astropy(ra, dec, other_ra, other_dec, radius)
    np.testing.assert_array_equal(rows >= 0, expected >= 0)
    np.testing.assert_allclose(separations, distance, atol=1e-8)
    differ = np.flatnonzero(rows != expected)
    # Where astropy took another row, it is exactly as far: ours is the smallest of the equals.
    vectors, others = sky.unit_vectors(ra, dec), sky.unit_vectors(other_ra, other_dec)
    ours = sky.squared_chord(vectors[differ], others[rows[differ]])
    theirs = sky.squared_chord(vectors[differ], others[expected[differ]])
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-28)


@pytest.mark.parametrize("radius", [0.05, 1.0, 10.0, 60.0])
def test_every_near_pair_shares_a_bucket(radius: float) -> None:
    ra, dec, _, _ = hard_sky(3000, seed=1)
    rng = np.random.default_rng(2)
    order = sky.fine_order(radius)
    indices, touched = sky.buckets_with_margin(sky.fine_pixels(ra, dec, order), order)
    copies = set(zip(indices.tolist(), touched.tolist(), strict=True))
    assert len(copies) == len(indices)
    for _ in range(10):
        other_ra, other_dec = near(ra, dec, radius * 0.7, rng)
        inside = sky.separation_arcsec(sky.squared_chord(sky.unit_vectors(ra, dec), sky.unit_vectors(other_ra, other_dec))) <= radius
        own = sky.buckets(sky.fine_pixels(other_ra, other_dec, order), order)
        assert inside.sum() > len(ra) / 10
        assert all((index, own[index]) in copies for index in np.flatnonzero(inside).tolist())


def test_fine_pixels_are_wider_than_the_radius_everywhere() -> None:
    """The margin's promise, measured: no circle of one radius leaves the neighbours of its centre's pixel, whatever the pixel."""
    rng = np.random.default_rng(3)
    for radius in (1.0, 7.0, 60.0):
        order = sky.fine_order(radius)
        grid = HEALPix(nside=2**order, order="nested")
        pixels = np.unique(np.concatenate([rng.integers(0, grid.npix, 2000), np.arange(200), grid.npix - 1 - np.arange(200)]))
        lon, lat = grid.boundaries_lonlat(pixels, step=3)
        with np.errstate(invalid="ignore"):
            around = np.concatenate([grid.neighbours(pixels), pixels[None, :]])
        for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False):
            ends = SkyCoord(lon.ravel(), lat.ravel()).directional_offset_by(angle * u.rad, radius * u.arcsec)
            there = grid.lonlat_to_healpix(ends.ra, ends.dec).reshape(len(pixels), -1)
            assert (there[:, :, None] == around.T[:, None, :]).any(axis=2).all()


def test_ties_go_to_the_smallest_row() -> None:
    ra, dec = np.array([10.0, 0.0, 120.0]), np.array([0.0, 90.0, 0.0])
    other_ra = np.array([10.0, 10.0, 200.0, 0.0, 120.0 + ARCSEC / 2, 120.0 - ARCSEC / 2, 120.0 + ARCSEC / 2])
    other_dec = np.array([0.0, 0.0, 90.0, 90.0, 0.0, 0.0, 0.0])
    for order in (np.arange(7), np.arange(7)[::-1], np.random.default_rng(0).permutation(7)):
        rows, _ = sky.nearest((ra, dec), (other_ra[order], other_dec[order]), order + 5, 1.0)
        assert rows[:2].tolist() == [5, 7]
        vectors = sky.unit_vectors(other_ra, other_dec)
        chords = sky.squared_chord(np.repeat(sky.unit_vectors(ra[2:], dec[2:]), 7, axis=0), vectors)
        assert rows[2] - 5 == np.flatnonzero(chords == chords.min())[0]


def test_the_radius_itself_is_inside() -> None:
    ra, dec, other_dec = np.array([30.0]), np.array([0.0]), np.array([ARCSEC])
    exact = sky.separation_arcsec(sky.squared_chord(sky.unit_vectors(ra, dec), sky.unit_vectors(ra, other_dec)))[0]
    assert exact == pytest.approx(1.0, abs=1e-10)
    assert sky.nearest((ra, dec), (ra, other_dec), np.array([0]), exact)[0][0] == 0
    assert sky.nearest((ra, dec), (ra, other_dec), np.array([0]), np.nextafter(exact, 0))[0][0] == -1


def test_separations_are_accurate_from_nothing_to_half_the_sky() -> None:
    for arcsec in (0.0, 1e-6, 1e-3, 1.0, 60.0, 3600.0, 90 * 3600.0, 180 * 3600.0):
        ra, dec = np.array([0.0]), np.array([-90.0 + arcsec * ARCSEC])
        measured = sky.separation_arcsec(
            sky.squared_chord(sky.unit_vectors(ra, dec), sky.unit_vectors(np.array([200.0]), np.array([-90.0])))
        )
        assert measured[0] == pytest.approx(arcsec, abs=2e-10 if arcsec < 1e5 else 1e-2)


def test_what_is_a_position() -> None:
    ra = np.array([0.0, 360.0, -1.0, 360.1, np.nan, np.inf, 5.0, 5.0, -9999.0])
    dec = np.array([90.0, -90.0, -1.0, 0.0, 0.0, 0.0, 90.1, np.nan, -9999.0])
    assert sky.is_position(ra, dec).tolist() == [True, True] + [False] * 7


def test_empty_sides() -> None:
    nothing, some = (np.empty(0), np.empty(0)), (np.array([1.0]), np.array([1.0]))
    assert len(sky.nearest(nothing, some, np.array([0]), 1.0)[0]) == 0
    assert sky.nearest(some, nothing, np.empty(0, int), 1.0)[0].tolist() == [-1]
    assert len(sky.buckets_with_margin(np.empty(0, np.int64), 14)[0]) == 0


# --- the stage -----------------------------------------------------------------------------------------------------------------------


def positions(spark: Any, key: str, ra: np.ndarray, dec: np.ndarray, partitions: int = 2) -> Any:
    return spark.createDataFrame(pd.DataFrame({key: np.arange(len(ra)), "ra": ra, "dec": dec, "catalogue": 0})).repartition(partitions)


def collected(frame: Any, key: str = "left_id") -> pd.DataFrame:
    return frame.toPandas().sort_values(key).reset_index(drop=True)


@pytest.mark.spark
@pytest.mark.parametrize("radius", [1.0, 60.0])
def test_match_on_sky_equals_the_search_over_the_whole_sky(spark: Any, radius: float) -> None:
    from nalspark.surveys.crossmatch.stages import match_on_sky

    ra, dec, other_ra, other_dec = hard_sky(2000, seed=5, scatter=radius / 2)
    bad = np.array([-1.0, 361.0, np.nan, 10.0, np.inf])
    bad_dec = np.array([-1.0, 0.0, 0.0, np.nan, 0.0])
    ra, dec = np.concatenate([ra, bad]), np.concatenate([dec, bad_dec])
    other_ra, other_dec = np.concatenate([other_ra, bad]), np.concatenate([other_dec, bad_dec])
    good, other_good = (np.flatnonzero(sky.is_position(*side)) for side in ((ra, dec), (other_ra, other_dec)))
    rows, separations = sky.nearest((ra[good], dec[good]), (other_ra[other_good], other_dec[other_good]), other_good, radius)
    expected = by_astropy(ra[good], dec[good], other_ra[other_good], other_dec[other_good], radius)
    answers = []
    for partitions in (1, 3, 7):
        left = positions(spark, "left_id", ra, dec, partitions)
        right = positions(spark, "row", other_ra, other_dec, 8 - partitions)
        answers.append(collected(match_on_sky(left, right, radius)))
    for answer in answers:
        assert answer["left_id"].tolist() == good[rows >= 0].tolist()
        assert answer["right_row"].tolist() == rows[rows >= 0].tolist()
        np.testing.assert_array_equal(answer["separation_arcsec"], separations[rows >= 0])
        assert answer["left_id"].tolist() == good[expected[0] >= 0].tolist()
        np.testing.assert_allclose(answer["separation_arcsec"], expected[1][expected[0] >= 0], atol=1e-8)


@pytest.mark.spark
def test_nothing_matches_nothing(spark: Any) -> None:
    from nalspark.surveys.crossmatch.stages import match_on_sky

    schema = "left_id long, ra double, dec double"
    some = positions(spark, "row", np.array([1.0]), np.array([1.0]))
    nowhere = spark.createDataFrame([(1, None, None)], schema)
    assert match_on_sky(nowhere, some, 1.0).count() == 0
    assert (
        match_on_sky(
            some.withColumnRenamed("row", "left_id"), nowhere.selectExpr("0 AS catalogue", "left_id AS row", "ra", "dec"), 1.0
        ).count()
        == 0
    )


@pytest.mark.spark
def test_match_by_id_takes_the_smallest_row_and_no_nulls(spark: Any) -> None:
    from nalspark.surveys.crossmatch.stages import match_by_id

    big = 2**62 + 1  # float64 would round it
    names = "plate int, mjd int, fiber int, targetid long, catalogid long"
    spectra = [
        ("a", 1, 2, 3, None, None), ("b", 1, 2, None, None, None), ("c", 4, 5, 6, None, None),
        ("desi", None, None, None, big, None), ("next", None, None, None, big + 1, None), ("sdssv", None, 2, None, None, big),
    ]  # fmt: skip
    rows = [
        (0, 9, 1, 2, 3, None, None), (0, 7, 1, 2, 3, None, None), (0, 1, 1, 2, None, None, None), (0, 2, 4, 5, 7, None, None),
        (1, 8, 1, 2, 3, None, None), (1, 3, None, None, None, big, None), (1, 4, 9, 9, 9, big, big),
        (2, 1, None, 3, None, None, big), (2, 2, None, 2, None, None, big), (2, 5, None, 1, None, None, big),
    ]  # fmt: skip
    left = spark.createDataFrame(spectra, f"left_id string, {names}")
    right = spark.createDataFrame(rows, f"catalogue int, row long, {names}")
    # The epoch comes before the object.
    expected = [("a", 0, 7), ("a", 1, 8), ("desi", 1, 3), ("sdssv", 1, 4), ("sdssv", 2, 2)]
    assert sorted(map(tuple, match_by_id(left, right).collect())) == expected


SPECTRA_SCHEMA = (
    "spectrum_id string, part string, path string, format string, plate int, mjd int, fiber int, field int, catalogid long, "
    "targetid long, survey string, program string, healpix int, tile int, ra double, dec double, "
    "z_pipeline double, z_pipeline_err double, z_warning int, object_class string"
)


def spectrum(name: str, fiber: int, ra: float | None = None, dec: float | None = 10.0, **changes: Any) -> dict[str, Any]:
    usual = {"part": "p", "path": f"/{name}.fits", "format": "sdss_spec", "plate": 1, "mjd": 50_000, "z_pipeline": 1.5, "z_warning": 0}
    usual["z_pipeline_err"] = 1.5e-4
    return {
        "spectrum_id": name,
        **usual,
        "object_class": "QSO",
        "fiber": fiber,
        "ra": ra,
        "dec": dec if ra is not None else None,
        **changes,
    }


SPECTRA = [
    spectrum("by_id", 1, 10.0),
    spectrum("on_sky", 2, 20.0),
    spectrum("second_catalogue", 3, 30.0),
    spectrum("alone", 4, 40.0),
    spectrum("no_position", 5),
    spectrum("twice", 6, 60.0, path="/b/twice.fits"),
    spectrum("twice", 6, 60.0, path="/a/twice.fits"),
    spectrum("twice", 6, 60.0, path="/c/twice.fits"),
    spectrum("sky", 7, 70.0, z_warning=1),
    spectrum("sky_class", 8, 80.0, object_class="SKY"),
    spectrum("star", 9, 90.0, object_class="STAR"),
    spectrum("empty_class", 10, 100.0, object_class=None, z_warning=None),
    spectrum("star_but_known", 11, 110.0, object_class="STAR", z_warning=1),
    spectrum("low_z", 12, 120.0, z_pipeline=0.001),
    spectrum("no_z", 13, 130.0, z_pipeline=float("nan")),
    spectrum("known_without_z", 14, 140.0),
    spectrum("known_with_absurd_z", 15, 150.0),
    spectrum("epoch_1", 16, 160.0),
    spectrum("epoch_2", 17, 160.0 + 0.5 * ARCSEC),
    spectrum("weak", 18, 180.0),
    spectrum("no_error", 19, 190.0),
    spectrum("id_beats_sky", 20, 200.0),
    spectrum("next_row", 21, 210.0),
    spectrum("next_catalogue", 22, 220.0),
    spectrum("star_without_z", 23, 230.0, object_class="STAR"),
    spectrum("nowhere", 24, 240.0, z_pipeline=float("nan")),
]
QUASARS_SCHEMA = "row long, plate int, mjd int, fiber int, ra double, dec double, z double, z_err double"
FIRST = [
    (0, 1, 50_000, 1, 10.0, 10.0, 2.0, 1e-3),
    (1, 1, 50_000, 1, 10.0, 10.0, 2.9, 2e-3),
    (2, 9, 50_000, 2, 20.0 + 0.3 * ARCSEC, 10.0, 2.1, None),
    (3, None, None, None, 110.0, 10.0, 2.2, 4e-3),
    (4, 1, 50_000, 14, 140.0, 10.0, float("nan"), 5e-3),
    (5, 1, 50_000, 15, 150.0, 10.0, 11.0, 6e-3),
    (6, 1, 50_000, 20, 201.0, 10.0, 2.3, 7e-3),
    (7, 1, 50_000, 99, 200.0, 10.0, 2.4, 8e-3),
    (8, None, None, None, -1.0, -1.0, 2.5, 9e-3),
    (9, 1, 50_000, 21, 210.0, 10.0, None, None),
    (10, 1, 50_000, 21, 210.0, 10.0, 2.6, 11e-3),
    (11, 1, 50_000, 22, 220.0, 10.0, None, 12e-3),
    (12, 1, 50_000, 23, 230.0, 10.0, None, 13e-3),
    (13, 1, 50_000, 24, 240.0, 10.0, None, 14e-3),
]
SECOND = [
    (0, 1, 50_000, 1, None, None, 0.5, 1e-2),
    (1, 1, 50_000, 3, None, None, 3.0, None),
    (2, 1, 50_000, 5, None, None, 3.1, 3e-2),
    (3, 1, 50_000, 22, None, None, 2.7, 4e-2),
    (4, 1, 50_000, 24, None, None, None, 5e-2),
]
ABSORBERS_SCHEMA = QUASARS_SCHEMA.replace(
    "z double, z_err double",
    "z_qso double, z_abs double, ew_primary double, ew_primary_err double, ew_secondary double, ew_secondary_err double",
)
NAN = float("nan")
SYSTEMS = [
    (0, 1, 50_000, 1, 10.0, 10.0 + 0.2 * ARCSEC, 2.0, 1.2, 1.0, 0.1, 0.8, 0.1),
    (1, 1, 50_000, 1, 10.0, 10.0 + 0.2 * ARCSEC, 2.0, 0.9, 0.5, 0.4, 0.4, 0.4),
    (2, 1, 50_000, 1, 10.0, 10.0, 2.0, NAN, 0.5, 0.1, 0.4, 0.1),
    (3, None, None, None, 160.0, 10.0, 2.0, 1.1, 0.9, 0.29, 0.6, 0.19),
    (4, 1, 50_000, 18, 180.0, 10.0, 2.0, 1.0, 0.9, 0.1, 0.29, 0.1),
    (5, 1, 50_000, 19, 190.0, 10.0, 2.0, 1.0, 0.9, NAN, 0.8, 0.1),
    (6, 5, 50_000, 5, 250.0, 10.0, 2.0, 1.0, 0.9, 0.1, 0.8, 0.1),
]
OTHERS = [(0, 1, 50_000, 18, None, None, 2.0, 0.7, 0.5, 0.1, 0.4, 0.1)]


def matched_tables(spectra: Any, quasars: Any, absorbers: Any, searched: Any = (), **choices: Any) -> tuple[Any, Any]:
    """Targets and matches, from hits that are found once for both, as the stage has it."""
    from pyspark.sql import functions as F

    from nalspark.surveys.crossmatch.stages import crossmatch, find_sightlines, footprints, mark_duplicates

    none = {name: F.lit(None).cast("long") for name in ("targetid", "catalogid")}
    known = ([(name, frame.withColumns(none)) for name, frame in catalogues] for catalogues in (quasars, absorbers, searched))
    quasars, absorbers, searched = known
    settings = nalspark_settings.load(crossmatch=choices)
    marked = mark_duplicates(spectra).persist()
    hits = find_sightlines(marked, quasars, absorbers, settings, searched).persist()
    names = [[name for name, _ in catalogues] for catalogues in (quasars, absorbers)]
    where = footprints(absorbers, settings.crossmatch.footprint)
    return crossmatch(marked, hits, *names, settings, searched=[name for name, _ in searched], footprints=where)


def staged(spark: Any, partitions: int, absorbers: bool = True, **choices: Any) -> tuple[Any, Any]:
    """The frames of the stage for the made-up spectra and catalogues, their rows in an order that differs with `partitions`."""

    def frame(rows: list[Any], schema: str) -> Any:
        shuffled = [rows[index] for index in np.random.default_rng(partitions).permutation(len(rows))]
        return spark.createDataFrame(shuffled, schema).repartition(partitions)

    quasars = [("first", frame(FIRST, QUASARS_SCHEMA)), ("second", frame(SECOND, QUASARS_SCHEMA))]
    systems = [("systems", frame(SYSTEMS, ABSORBERS_SCHEMA)), ("others", frame(OTHERS, ABSORBERS_SCHEMA))]
    return matched_tables(frame(SPECTRA, SPECTRA_SCHEMA), quasars, systems if absorbers else [], **choices)


def gathered(targets: Any, matches: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    return (
        targets.toPandas().sort_values(["spectrum_id", "path"]).reset_index(drop=True),
        matches.toPandas().sort_values(["spectrum_id", "catalogue"]).reset_index(drop=True),
    )


@pytest.fixture(autouse=True)
def forgotten(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test had Spark keep is not kept for the next."""
    yield
    if "spark" in request.fixturenames:
        request.getfixturevalue("spark").catalog.clearCache()


@pytest.fixture(scope="module")
def matched(spark: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    return gathered(*staged(spark, 3))


@pytest.mark.spark
def test_every_spectrum_is_accounted_for_in_the_declared_columns(spark: Any, matched: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    from nalspark.tables.schemas import MATCHES, TARGETS

    targets, matches = matched
    assert list(targets) == TARGETS.names and list(matches) == MATCHES.names
    assert sorted(targets["path"]) == sorted(row["path"] for row in SPECTRA)


@pytest.mark.spark
def test_redshifts_come_from_the_first_catalogue_that_knows(matched: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    targets = matched[0].set_index("path")
    expected = {
        "by_id": (2.0, "first", "id", None),
        "on_sky": (2.1, "first", "sky", 0.3 * np.cos(np.radians(10))),
        "second_catalogue": (3.0, "second", "id", None),
        "alone": (1.5, "pipeline", None, None),
        "no_position": (3.1, "second", "id", None),
        "star_but_known": (2.2, "first", "sky", 0.0),
        "id_beats_sky": (2.3, "first", "id", None),
        # A fill value is no redshift: the next row, the next catalogue, the file's own.
        "next_row": (2.6, "first", "id", None),
        "next_catalogue": (2.7, "second", "id", None),
        "known_without_z": (1.5, "pipeline", None, None),
    }
    for name, (z, source, how, distance) in expected.items():
        row = targets.loc[f"/{name}.fits"]
        z_match = None if pd.isna(row["z_match"]) else row["z_match"]
        assert (row["z_qso"], row["z_source"], z_match) == (z, source, how), name
        assert pd.isna(row["z_separation_arcsec"]) if distance is None else row["z_separation_arcsec"] == pytest.approx(distance, abs=1e-6)
        assert pd.isna(row["reason"]) and pd.isna(row["detail"])


@pytest.mark.spark
def test_the_error_is_that_of_the_redshift_taken(matched: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """Null where its catalogue states none: that of the pipeline, or of another row, says nothing of it."""
    targets = matched[0].set_index("path")
    expected = {
        "by_id": 1e-3, "on_sky": None, "second_catalogue": None, "alone": 1.5e-4, "no_position": 3e-2, "star_but_known": 4e-3,
        "next_row": 11e-3, "next_catalogue": 4e-2, "known_without_z": 1.5e-4,
    }  # fmt: skip
    found = {name: targets.loc[f"/{name}.fits", "z_qso_err"] for name in expected}
    assert {name: None if pd.isna(error) else error for name, error in found.items()} == expected


@pytest.mark.spark
def test_rejections_by_reason(matched: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    targets = matched[0].set_index("path")
    expected = {
        "/b/twice.fits": ("duplicate_spectrum_id", "/a/twice.fits"),
        "/c/twice.fits": ("duplicate_spectrum_id", "/a/twice.fits"),
        "/sky.fits": ("sky_fiber", "z_warning is 1"),
        "/sky_class.fits": ("sky_fiber", "class is SKY"),
        "/star.fits": ("not_a_quasar", "STAR"),
        "/empty_class.fits": ("not_a_quasar", "empty"),
        "/low_z.fits": ("bad_redshift", "pipeline is 0.001; expected 0.005 to 7.5"),
        "/no_z.fits": ("bad_redshift", "pipeline is"),
        "/nowhere.fits": ("bad_redshift", "pipeline is"),
        "/star_without_z.fits": ("not_a_quasar", "no quasar catalogue has its redshift"),
        "/known_with_absurd_z.fits": ("bad_redshift", "first is 11.0"),
    }
    rejected = targets[targets["reason"].notna()]
    assert rejected["reason"].to_dict() == {path: reason for path, (reason, _) in expected.items()}
    for path, (_, piece) in expected.items():
        assert piece in rejected.loc[path, "detail"]
    assert pd.isna(targets.loc["/a/twice.fits", "reason"])


@pytest.mark.spark
def test_systems_are_attached_to_every_spectrum_of_the_sightline(matched: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    of_quasars, matches = (
        matched[1][matched[1]["kind"] == kind].set_index(["spectrum_id", "catalogue"]) for kind in ("quasars", "absorbers")
    )
    assert of_quasars.loc[("by_id", "first"), ["row", "n_rows"]].tolist() == [0, 2] and of_quasars["n_systems"].isna().all()
    assert of_quasars.loc[("on_sky", "first"), ["row", "n_rows", "match"]].tolist() == [2, 1, "sky"]
    assert sorted(matches.index) == [
        ("by_id", "systems"),
        ("epoch_1", "systems"),
        ("epoch_2", "systems"),
        ("no_error", "systems"),
        ("weak", "others"),
        ("weak", "systems"),
    ]
    first = matches.loc[("by_id", "systems")]
    assert (first["match"], first["n_systems"], first["n_strong"]) == ("id", 2, 1)
    assert list(first["z_abs"]) == [0.9, 1.2] and list(first["ew_primary"]) == [0.5, 1.0]
    assert first["separation_arcsec"] == pytest.approx(0.2, abs=1e-6) and first["part"] == "p"
    epochs = matches.loc[[("epoch_1", "systems"), ("epoch_2", "systems")]]
    assert epochs["match"].tolist() == ["sky", "sky"] and epochs["n_strong"].tolist() == [1, 1]
    np.testing.assert_allclose(epochs["separation_arcsec"], [0, 0.5 * np.cos(np.radians(10))], atol=1e-6)
    assert matches["n_strong"][("weak", "systems")] == 0 and matches["n_strong"][("no_error", "systems")] == 0
    assert pd.isna(matches["separation_arcsec"][("weak", "others")])


def labels(targets: pd.DataFrame) -> dict[str, float | None]:
    usable = targets[targets["reason"].isna()]
    return {name: None if pd.isna(label) else int(label) for name, label in zip(usable["spectrum_id"], usable["label"], strict=True)}


@pytest.mark.spark
def test_labels(spark: Any, matched: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    found = labels(matched[0])
    strong = {"by_id", "epoch_1", "epoch_2", "weak"}
    # All systems are of quasars of redshift 2: of nearer and farther ones the catalogues say nothing.
    at_2 = {"star_but_known": None, "no_error": None}
    assert found == {name: 1 if name in strong else at_2.get(name) for name in found}
    known = matched[0].set_index("path")["catalogues"]
    assert list(known["/weak.fits"]) == ["others", "systems"] and list(known["/alone.fits"]) == []
    demanding = labels(staged(spark, 2, weak="negative", label_significance=4.5)[0].toPandas())
    assert {name for name, label in demanding.items() if label} == {"by_id"} and demanding["no_error"] == 0
    targets, matches = staged(spark, 2, absorbers=False)
    assert set(labels(targets.toPandas()).values()) == {None} and set(matches.toPandas()["kind"]) == {"quasars"}


#: Listed by "a": two quasars of plate 1, their absorbers between 0.8 and 1.5; by "b", without redshifts of quasars or plates, one.
LISTED_BY_A = [
    (0, 1, 50_000, 1, 10.0, 10.0, 1.0, 0.8, 1.0, 0.1, 0.8, 0.1),
    (1, 1, 50_000, 2, 20.0, 10.0, 3.0, 1.5, 1.0, 0.1, 0.1, 0.1),
]
LISTED_BY_B = [(0, None, None, None, 10.0, 50.0, None, 0.9, 1.0, 0.1, 0.8, 0.1)]
COVERAGE = [
    spectrum("strong", 1, 10.0, z_pipeline=1.0),
    spectrum("weak", 2, 20.0, z_pipeline=3.0),
    spectrum("on_the_plate", 3, 30.0, z_pipeline=2.0),
    spectrum("too_near", 4, 40.0, z_pipeline=0.9),
    spectrum("too_far", 5, 50.0, z_pipeline=3.1),
    spectrum("other_plate", 6, 9.9, 10.1, plate=2, z_pipeline=2.0),
    spectrum("other_sky", 7, 30.0, 60.0, plate=2, z_pipeline=2.0),
    spectrum("cell_of_b", 8, 10.1, 50.3, plate=2, z_pipeline=2.0),
    spectrum("cell_of_b_too_near", 9, 10.2, 50.3, plate=2, z_pipeline=0.85),
]
#: How the footprints are told → the spectra labelled 0, and who covers each of them.
FOOTPRINT_CASES: dict[str, tuple[dict[str, str], dict[str, list[str]]]] = {
    "as usual": ({}, {"on_the_plate": ["a"], "cell_of_b": ["b"]}),
    "plates": ({"a": "plates", "b": "plates"}, {"on_the_plate": ["a"], "cell_of_b": ["b"]}),
    "sky": ({"a": "sky"}, {"other_plate": ["a"], "cell_of_b": ["b"]}),
    "everywhere": (
        {"b": "everywhere"},
        {
            **{name: ["b"] for name in ("too_far", "other_plate", "other_sky", "cell_of_b")},
            "on_the_plate": ["a", "b"],
            "too_near": ["b"],
        },
    ),
    "list": ({"a": "/list.csv"}, {"other_sky": ["a"], "cell_of_b": ["b"]}),
}


@pytest.mark.spark
@pytest.mark.parametrize("case", FOOTPRINT_CASES)
@pytest.mark.parametrize("partitions", [1, 3])
def test_silence_is_a_label_where_the_catalogue_was_searched(spark: Any, case: str, partitions: int) -> None:
    how, silent = FOOTPRINT_CASES[case]
    absorbers = [(name, spark.createDataFrame(rows, ABSORBERS_SCHEMA)) for name, rows in (("a", LISTED_BY_A), ("b", LISTED_BY_B))]
    listed = [(0, 2, 50_000, 7, None, None, None, None), (1, 1, 50_000, 5, None, None, None, None)]
    searched = [("a", spark.createDataFrame(listed, QUASARS_SCHEMA))] if case == "list" else []
    frame = spark.createDataFrame(COVERAGE, SPECTRA_SCHEMA).repartition(partitions)
    targets, matches = gathered(*matched_tables(frame, [], absorbers, searched, footprint=how))
    assert labels(targets) == {row["spectrum_id"]: None for row in COVERAGE} | {"strong": 1} | dict.fromkeys(silent, 0)
    covered = {row.spectrum_id: list(row.covered) for row in targets.itertuples()}
    assert {name: covered[name] for name in silent} == silent
    assert "a" in covered["strong"] and "a" in covered["weak"], "what a catalogue lists it covers"
    assert set(matches["catalogue"]) == {"a"} and [list(some) for some in matches["strong"]] == [[True], [False]]


@pytest.mark.spark
def test_the_same_at_every_partitioning(spark: Any, matched: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    for partitions in (1, 7):
        for ours, theirs in zip(gathered(*staged(spark, partitions)), matched, strict=True):
            pd.testing.assert_frame_equal(ours, theirs)


@pytest.mark.spark
def test_counts_are_those_the_paper_prints(spark: Any) -> None:
    from nalspark.surveys.crossmatch.stages import match_counts

    quasars = [("first", spark.createDataFrame(FIRST, QUASARS_SCHEMA))]
    systems = [("systems", spark.createDataFrame(SYSTEMS, ABSORBERS_SCHEMA))]
    tables = matched_tables(spark.createDataFrame(SPECTRA, SPECTRA_SCHEMA), quasars, systems)
    named = [("quasars", "first", len(FIRST)), ("absorbers", "systems", len(SYSTEMS)), ("quasars", "systems", 5)]
    # 24 spectra, the two copies of one not counted. Rows 7 and 8 of the quasars and 2 and 6 of the systems match nothing.
    assert [tuple(counts.values()) for counts in match_counts(*tables, named)] == [
        ("quasars", "first", 14, 12, 2, 8, 2, 14),
        ("absorbers", "systems", 7, 5, 2, 3, 2, 19),
        ("quasars", "systems", 5, 0, 5, 0, 0, 24),
    ]
    assert match_counts(*tables, []) == []


@pytest.mark.spark
def test_spectra_without_a_redshift_in_a_catalogue_are_counted(spark: Any) -> None:
    from nalspark.surveys.crossmatch.stages import passed_over

    targets, matches = staged(spark, 2, absorbers=False)
    # In the first: known_without_z, next_catalogue, star_without_z and nowhere; in the second nowhere alone.
    assert passed_over(targets, matches, ["first", "second"]) == {"first": 4, "second": 1}


class Told:
    """A run whose tables are not looked at; it keeps what it says."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self.progress, self.store, self.manifest = (
            SimpleNamespace(say=self.said.append),
            SimpleNamespace(catalogues=folder),
            SimpleNamespace(),
        )
        self.manifest.inputs = {}
        self.whole = id


@pytest.mark.parametrize("matched", [0, 2])
def test_what_is_said_of_catalogues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matched: int) -> None:
    """Loudly, where nothing of one matches; and how many of its rows have no redshift."""
    from nalspark.pipeline import crossmatch as stage

    (tmp_path / "q.csv").write_text("RA,DEC,z\n-0.5,1,0.5\n10,2,-999\n11,3,NaN\n")
    catalogues = {"quasars": [open_catalog(tmp_path / "q.csv", "quasars")], "absorbers": []}
    counts = {"kind": "quasars", "catalogue": "q.csv", "rows": 3, "rows_matched": matched, "rows_unmatched": 3 - matched}
    counts |= {"spectra_by_id": 0, "spectra_on_sky": matched, "spectra_unmatched": 5}
    monkeypatch.setattr(stage, "match_counts", lambda *_: [counts])
    monkeypatch.setattr(stage, "passed_over", lambda *_: {"q.csv": 1} if matched else {})
    run: Any = Told(tmp_path / "converted")
    stage.Crossmatch(cast(Any, SimpleNamespace(catalogues=catalogues))).finish(run)
    warnings = [line for line in run.said if line.startswith("WARNING")]
    assert len(warnings) == (matched == 0)
    if warnings:
        assert "nothing in catalogue 'q.csv' matches any spectrum. Of its 3 rows 0 have an identifier" in warnings[0]
        assert "and 3 a position" in warnings[0]
        assert "reads ra = 'RA', dec = 'DEC', z = 'z'" in warnings[0] and "'q.csv::map'" in warnings[0]
    assert "q.csv: 2 of its rows have no redshift" in run.said[-1] and f"{int(matched > 0)} spectra take theirs" in run.said[-1]


@pytest.mark.spark
def test_catalogues_of_one_name_are_refused(spark: Any) -> None:
    frame = spark.createDataFrame(FIRST, QUASARS_SCHEMA)
    with pytest.raises(CatalogError, match="Two catalogues are called a.fits"):
        matched_tables(spark.createDataFrame(SPECTRA, SPECTRA_SCHEMA), [("a.fits", frame), ("a.fits", frame)], [])


# --- real catalogues -----------------------------------------------------------------------------------------------------------------


def identifiers(rows: dict[str, np.ndarray]) -> list[tuple[int, ...]]:
    return list(zip(*(rows[name].tolist() for name in ("plate", "mjd", "fiber")), strict=True))


def opened(real_data: Path, name: str, kind: Any) -> tuple[Catalog, dict[str, np.ndarray]]:
    catalog = open_catalog(real_data / "catalogs" / name, kind)
    batches = list(read_rows(catalog))
    return catalog, {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.spark
@pytest.mark.data
def test_catalog_frames_hold_every_row_once(spark: Any, real_data: Path, tmp_path: Path) -> None:
    from nalspark.surveys.crossmatch.stages import catalog_frame

    catalog, rows = opened(real_data, "brodzeller2023_sdss_qso_pmf_z.npz", "quasars")
    frame = catalog_frame(spark, catalog, tmp_path).toPandas().sort_values("row")
    assert frame["row"].tolist() == list(range(catalog.n_rows))
    np.testing.assert_array_equal(
        frame[["plate", "mjd", "fiber", "z"]], np.stack([rows[name] for name in ("plate", "mjd", "fiber", "z")], 1)
    )
    assert frame["ra"].isna().all()


@pytest.mark.spark
@pytest.mark.data
def test_real_catalogues_against_numpy_and_astropy(spark: Any, real_data: Path, tmp_path: Path) -> None:
    from nalspark.surveys.crossmatch.stages import catalog_frame, match_by_id, match_on_sky

    dr7, dr7_rows = opened(real_data, "Raghunathan2016_MgII_DR7.fits", "absorbers")
    dr12, dr12_rows = opened(real_data, "Raghunathan2016_MgII_DR12.fits", "absorbers")
    sdss, sdss_rows = opened(real_data, "brodzeller2023_sdss_qso_pmf_z.npz", "quasars")
    left = catalog_frame(spark, dr12, tmp_path).withColumnRenamed("row", "left_id")
    earlier, quasars = (catalog_frame(spark, one, tmp_path).selectExpr("0 AS catalogue", "*") for one in (dr7, sdss))
    first: dict[tuple[int, ...], int] = {}
    for row, key in enumerate(identifiers(sdss_rows)):
        first.setdefault(key, row)
    expected = [(row, first[key]) for row, key in enumerate(identifiers(dr12_rows)) if key in first]
    assert len(expected) > 10_000
    assert [tuple(pair) for pair in collected(match_by_id(left, quasars))[["left_id", "right_row"]].to_numpy()] == expected
    found = collected(match_on_sky(left, earlier, 1.0))
    rows, separations = by_astropy(dr12_rows["ra"], dr12_rows["dec"], dr7_rows["ra"], dr7_rows["dec"], 1.0)
    assert len(found) == (rows >= 0).sum() > 1000 and found["left_id"].tolist() == np.flatnonzero(rows >= 0).tolist()
    np.testing.assert_allclose(found["separation_arcsec"], separations[rows >= 0], atol=1e-8)
    # A sightline with several systems occurs several times at one position: ours is its first row.
    chosen, theirs = found["right_row"].to_numpy(), rows[rows >= 0]
    assert (chosen <= theirs).all()
    np.testing.assert_array_equal(dr7_rows["ra"][chosen], dr7_rows["ra"][theirs])


@pytest.mark.spark
@pytest.mark.data
def test_real_spectra_find_their_catalogued_systems(spark: Any, real_data: Path, tmp_path: Path) -> None:
    from nalspark.surveys.crossmatch.stages import catalog_frame

    index = pd.read_csv(real_data / "spectra" / "index.csv", dtype={"cls": str})
    renamed = index.drop(columns="path").rename(columns={"z": "z_pipeline", "zw": "z_warning", "cls": "object_class", "name": "path"})
    renamed = renamed.assign(spectrum_id=renamed["path"].str.split(".").str[0], part="p", format="sdss_spec").reindex(
        columns=[piece.split()[0] for piece in SPECTRA_SCHEMA.split(", ")]
    )
    columns = [piece.split()[0] for piece in SPECTRA_SCHEMA.split(", ")]
    records = [tuple(None if pd.isna(cell) else cell for cell in row) for row in renamed[columns].astype(object).to_numpy()]
    catalog = [open_catalog(real_data / "catalogs" / f"Raghunathan2016_MgII_{name}.fits", "absorbers") for name in ("DR7", "DR12")]
    frames = [(one.name, catalog_frame(spark, one, tmp_path)) for one in catalog]
    targets, matches = matched_tables(spark.createDataFrame(records, SPECTRA_SCHEMA), [], frames)
    answer = targets.toPandas()
    assert len(answer) == len(index)
    assert (answer["reason"] == "sky_fiber").sum() >= 40 and (answer["reason"] == "not_a_quasar").sum() >= 30
    known = pd.read_csv(real_data / "spectra" / "known_mgii_absorbers.csv")
    known = known[known["catalog"].str.startswith("R16")]
    found = matches.toPandas()
    systems = {
        (row.spectrum_id, row.catalogue.split("_")[-1].split(".")[0], round(float(z), 3)) for row in found.itertuples() for z in row.z_abs
    }
    wanted = {(row.name.split(".")[0], row.catalog.split("_")[-1], round(row.zabs, 3)) for row in known.itertuples(index=False)}
    assert wanted and wanted <= systems


# ---- spectra of one object


def test_designations_cut_digits_off() -> None:
    assert sky.designation(np.array([0.0, 187.70593, 359.9999999]), np.array([0.0, -12.39112, 89.9999999])) == [
        "J000000.00+000000.0", "J123049.42-122328.0", "J235959.99+895959.9",
    ]  # fmt: skip


@pytest.mark.parametrize("partitions", [1, 3, 7])
@pytest.mark.spark
def test_spectra_of_one_object_share_a_name(spark: Any, partitions: int) -> None:
    """Also where they lie across the edges of buckets, at the poles and at right ascension 0."""
    from nalspark.surveys.crossmatch.stages import objects

    rng = np.random.default_rng(4)
    places = corners()
    once = np.unique(sky.unit_vectors(*places).round(6), axis=0, return_index=True)[1]  # a pole is a corner of four base pixels
    ra = np.concatenate([places[0][once], [0.0], rng.uniform(0, 360, 300)])
    dec = np.concatenate([places[1][once], [10.0], np.degrees(np.arcsin(rng.uniform(-1, 1, 300)))])
    epochs = rng.integers(1, 5, len(ra))
    row = np.repeat(np.arange(len(ra)), epochs)
    east, north = near(ra[row], dec[row], 0.1, rng)
    spectra = [(f"s{number:05d}", float(a), float(d)) for number, (a, d) in enumerate(zip(east, north, strict=True))]
    nowhere = [("none", None, None), ("bad", 400.0, 0.0)]
    snr = rng.integers(1, 9, len(spectra)).astype(float).tolist()  # some are equal
    rows = [(*place, s) for place, s in zip([*spectra, *nowhere], [*snr, 1.0, 1.0], strict=True)]
    frame = spark.createDataFrame(rows, "spectrum_id string, ra double, dec double, snr double").repartition(partitions)
    made = objects(frame, 1.0).collect()
    found = {row["spectrum_id"]: (row["object_id"], row["n_epochs"]) for row in made}
    assert len(found) == len(spectra)
    best = [max((s, -number) for number, s in enumerate(snr) if row[number] == group) for group in range(len(ra))]
    assert {row["spectrum_id"] for row in made if row["primary"]} == {spectra[-number][0] for _, number in best}
    first: dict[int, str] = {}
    for (name, a, d), group in zip(spectra, row.tolist(), strict=True):
        first.setdefault(group, sky.designation(np.array([a]), np.array([d]))[0])
        assert found[name] == (first[group], epochs[group]), name
