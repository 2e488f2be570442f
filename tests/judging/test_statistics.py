"""Rates: recovered from surveys of known truth, equal to closed forms, and the same whatever the order of the rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from make_rates import CONSTANT, ERROR_FACTOR, SCORE, logistic, make_sensitivity, make_survey, write_result
from scipy.integrate import trapezoid

from nalspark import metrics
from nalspark.cli import main
from nalspark.errors import StoreError
from nalspark.incidence import NESTOR_2005, ZHU_MENARD_2013
from nalspark.judging import statistics as st
from nalspark.judging.completeness import CompletenessFunction
from nalspark.judging.exponential import fit_exponential
from nalspark.judging.path import Bins, find_regions, in_memory, measure_path
from nalspark.judging.posterior import true_widths
from nalspark.judging.statistics_files import statistics_text
from nalspark.lines import MG_II
from nalspark.settings import Statistics
from nalspark.tables.manifest import read_manifest, write_manifest
from nalspark.tables.schemas import BALNICITY

SETTINGS = Statistics(z_bins=(0.4, 0.8, 1.2, 1.7, 2.2))


def plain(table, name, rows=slice(None)):
    return np.asarray(getattr(table[name], "value", table[name]), dtype=float)[rows]


@pytest.fixture(scope="module")
def survey():
    return make_survey(4000, CONSTANT)


@pytest.fixture(scope="module")
def measured(survey):
    return st.measure_rates(survey.absorbers, survey.sensitivity, CompletenessFunction.of(survey.completeness), MG_II, SETTINGS)


# ---- laws


def test_the_published_laws_give_the_published_rates():
    limits = np.array([0.6, 1.0, 2.0])
    np.testing.assert_allclose(ZHU_MENARD_2013.rate(1.0, limits), [0.473, 0.260, 0.058], atol=6e-4)
    np.testing.assert_allclose(NESTOR_2005.rate(1.0, limits), [0.489, 0.273, 0.064], atol=6e-4)
    ew = np.linspace(0.6, 40.0, 200_001)
    assert trapezoid(ZHU_MENARD_2013.density(1.3, ew), ew) == pytest.approx(ZHU_MENARD_2013.rate(1.3, 0.6), rel=1e-6)


# ---- the known truth


def test_the_rates_are_recovered(measured):
    """Within 3 % for all bins together, and within the errors bin by bin: the rms of 16 deviations in units of their errors is near 1."""
    rates = measured.rates
    truth = CONSTANT.rate(1.0, plain(rates, "ew_low"))
    value, error = plain(rates, "dndz"), 0.5 * (plain(rates, "dndz_upper") - plain(rates, "dndz_lower"))
    np.testing.assert_allclose(value[-4:-1] / truth[-4:-1], 1.0, atol=0.03)
    assert abs(value[-1] / truth[-1] - 1.0) < max(0.03, 2 * error[-1] / truth[-1])
    deviation = (value - truth) / error
    assert np.sqrt((deviation[:-4] ** 2).mean()) < 1.5 and np.abs(deviation).max() < 3.5
    assert (plain(rates, "dndz_uncorrected", slice(-4, -1)) < 0.9 * truth[-4:-1]).all()


def test_without_a_correction_the_rates_are_too_low(survey, measured):
    bare = st.measure_rates(survey.absorbers, survey.sensitivity, st.no_correction, MG_II, SETTINGS)
    assert not bare.corrected and not bare.rates.meta["corrected"] and measured.rates.meta["corrected"]
    assert (plain(bare.rates, "dndz") < plain(measured.rates, "dndz")).all()
    assert plain(bare.rates, "dndz")[-3] < 0.9 * CONSTANT.rate(1.0, 0.6)


def test_the_exponential_is_recovered(measured):
    fit = measured.fit
    assert plain(fit, "w_star")[-1] == pytest.approx(0.65, rel=0.05) and plain(fit, "n_star")[-1] == pytest.approx(5.0, rel=0.06)
    for name, truth in (("w_star", 0.65), ("n_star", 5.0)):
        assert np.abs((plain(fit, name) - truth) / plain(fit, f"{name}_err")).max() < 3.5
        assert 0.5 < plain(fit, f"{name}_jackknife")[-1] / plain(fit, f"{name}_err")[-1] < 2.0
    function = measured.ew_function
    whole, n = slice(-len(SETTINGS.ew_bins) + 1, None), len(SETTINGS.ew_bins) - 1
    edges = np.array(SETTINGS.ew_bins)
    expected = -np.diff(CONSTANT.rate(1.0, edges)) / np.diff(edges)
    error = 0.5 * (plain(function, "f_upper", whole) - plain(function, "f_lower", whole))
    assert np.abs((plain(function, "f", whole) - expected) / error).max() < 3.5
    np.testing.assert_allclose(plain(function, "f_fit", whole), expected, rtol=0.12)
    sums = (plain(function, "f", whole) * np.diff(edges)).reshape(n)
    assert sums[2:].sum() == pytest.approx(plain(measured.rates, "dndz")[-3], rel=0.01), "f(W) from 0.6 Å on is dN/dz above it"


def test_a_law_that_changes_with_redshift_is_followed():
    survey = make_survey(6000, ZHU_MENARD_2013, seed=5)
    rates = st.measure_rates(survey.absorbers, survey.sensitivity, logistic, MG_II, SETTINGS).rates
    for kind in ("dndz", "dndx"):
        error = 0.5 * (plain(rates, f"{kind}_upper") - plain(rates, f"{kind}_lower"))
        assert np.abs((plain(rates, kind) - plain(rates, f"{kind}_published")) / error).max() < 3.5
        np.testing.assert_allclose(plain(rates, kind)[-4:-1] / plain(rates, f"{kind}_published")[-4:-1], 1.0, atol=0.06)
    assert plain(rates, "dndz")[12] > 1.2 * plain(rates, "dndz")[0]


def test_the_whole_is_the_sum_of_the_bins_where_all_that_is_searched_is_seen():
    """Without noise and incompleteness dN/dz is rows over path, to the last digit."""
    survey = make_survey(300, CONSTANT)
    exact = survey.absorbers | {
        "sigma_ew": np.full(len(survey.absorbers["z_abs"]), 1e-3),
        "ew_2796_err": np.full(len(survey.absorbers["z_abs"]), 1e-9),
    }
    exact["score"] = np.ones(len(exact["z_abs"]))
    sharp = survey.sensitivity | {"sigma_ew": np.array([np.full(len(c), 1e-3) for c in survey.sensitivity["sigma_ew"]], dtype=object)}
    rates = st.measure_rates(exact, sharp, st.no_correction, MG_II, SETTINGS).rates
    np.testing.assert_allclose(plain(rates, "dndz"), plain(rates, "dndz_uncorrected"), rtol=1e-9)
    np.testing.assert_allclose(plain(rates, "dndz_lower"), plain(rates, "dndz_uncorrected_lower"), rtol=1e-9)
    np.testing.assert_allclose(plain(rates, "n_effective"), plain(rates, "n_absorbers"), rtol=1e-9)
    np.testing.assert_allclose(plain(rates, "path"), plain(rates, "path_searched"), rtol=1e-9)


# ---- true widths


def test_true_widths_are_a_gaussian_moved_by_the_slope():
    nodes = true_widths([2.0, 0.8], [0.1, 0.2], 0.5, 400)
    np.testing.assert_allclose(nodes.mean(axis=1), [2.0 - 0.01 / 0.5, 0.8 - 0.04 / 0.5], atol=2e-4)
    np.testing.assert_allclose(nodes.std(axis=1), [0.1, 0.2], rtol=0.01)


def test_true_widths_are_cut_off_at_zero():
    ew, error, w_star = 0.1, 0.4, 0.6
    w = np.linspace(1e-6, 6.0, 200_001)
    weight = np.exp(-w / w_star - 0.5 * ((w - ew) / error) ** 2)
    nodes = true_widths([ew], [error], w_star, 2000)[0]
    assert nodes.min() > 0 and np.all(np.diff(nodes) > 0)
    assert nodes.mean() == pytest.approx((w * weight).sum() / weight.sum(), rel=2e-3)
    hopeless = true_widths([0.5, -5.0], [1e3, 0.1], 0.6)
    assert np.isfinite(hopeless).all() and (hopeless > 0).all()


# ---- the jackknife


def sample_of(survey, settings, regions, keep=None):
    bins = Bins.of(settings)
    rows, lines = survey.absorbers, survey.sensitivity
    if keep is not None:
        rows = {name: np.asarray(values)[keep(regions.of(rows["ra"], rows["dec"]))] for name, values in rows.items()}
        lines = {name: values[keep(regions.of(lines["ra"], lines["dec"]))] for name, values in lines.items()}
    path = measure_path(in_memory(lines), MG_II, bins, regions, settings.min_velocity_kms)
    chosen, _ = st.select_absorbers(rows, MG_II, bins, regions, settings.min_velocity_kms)
    return st.Sample(chosen, path, logistic, MG_II, regions.n, np.full(len(settings.z_bins), 0.65))


def test_the_jackknife_is_that_of_leaving_out_one_region_after_the_other():
    survey, settings = make_survey(300, CONSTANT), replace_settings(regions=6, nside=8)
    regions = find_regions(in_memory(survey.sensitivity), settings.nside, settings.regions)
    assert regions.n == 6
    whole = sample_of(survey, settings, regions)
    cuts = [whole.path.bins.between(ew) for ew in settings.ew_limits]
    left = [sample_of(survey, settings, regions, lambda of, r=r: of != r) for r in range(regions.n)]
    for kind in ("z", "x"):
        explicit = np.stack([st._estimates(sample, kind, cuts)[0] for sample in left])
        expected = np.sqrt(5 / 6 * ((explicit - explicit.mean(axis=0)) ** 2).sum(axis=0))
        np.testing.assert_allclose(st._estimates(whole, kind, cuts)[1], expected, rtol=1e-6)
    fits_left = [fit_exponential(s.absorbers, s.path, s.folded, logistic, settings.fit_ew) for s in left]
    fit = fit_exponential(whole.absorbers, whole.path, whole.folded, logistic, settings.fit_ew)
    for name in ("w_star", "n_star"):
        explicit = np.array([getattr(some, name)[0] for some in fits_left])
        assert getattr(fit, f"{name}_jackknife")[0] == pytest.approx(metrics.jackknife_error(explicit), rel=0.03)


def replace_settings(**values):
    return Statistics(**{**SETTINGS.model_dump(), **values})


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(1).normal(size=20)
    without = np.array([np.delete(values, i).mean() for i in range(20)])
    assert metrics.jackknife_error(without) == pytest.approx(values.std(ddof=1) / np.sqrt(20))
    assert np.isnan(metrics.jackknife_error(without[:1]))


# ---- what counts


@pytest.fixture
def small():
    return make_survey(150, CONSTANT, epochs=0.5)


def test_a_quasar_with_two_spectra_counts_once(small):
    one = {name: values[small.sensitivity["primary"]] for name, values in small.sensitivity.items()}
    rows = {name: np.asarray(values)[small.absorbers["primary"]] for name, values in small.absorbers.items()}
    both, single = (st.measure_rates(a, s, logistic, MG_II, SETTINGS) for a, s in ((small.absorbers, small.sensitivity), (rows, one)))
    assert len(rows["z_abs"]) < 0.9 * len(small.absorbers["z_abs"])
    np.testing.assert_array_equal(plain(both.rates, "dndz"), plain(single.rates, "dndz"))
    assert both.numbers["sightlines"] == 150
    assert both.numbers["left_out_other_epoch"] == len(small.absorbers["z_abs"]) - len(rows["z_abs"]) > 20


def test_what_is_near_the_quasar_off_the_path_or_without_an_error_is_left_out_and_counted(small):
    rows = {name: np.array(values) for name, values in small.absorbers.items()}
    primary = np.flatnonzero(rows["primary"] & (rows["z_abs"] > 0.5) & (rows["z_abs"] < 2.1))
    rows["flags"][primary[0]] = 1024 + 2
    rows["sigma_ew"][primary[1]] = np.nan
    rows["z_abs"][primary[2]] = rows["z_qso"][primary[2]] * 1.001
    before = st.measure_rates(small.absorbers, small.sensitivity, logistic, MG_II, SETTINGS).numbers
    after = st.measure_rates(rows, small.sensitivity, logistic, MG_II, SETTINGS).numbers
    grown = {name: after[name] - before[name] for name in before if name.startswith("left_out")}
    assert grown["left_out_off_path"] == grown["left_out_no_error"] == 1 and grown["left_out_near_quasar"] >= 0
    assert before["absorbers"] - after["absorbers"] == sum(grown.values()) >= 2


def test_a_wider_cut_at_the_quasar_takes_absorbers_and_path(small):
    near, far = (
        st.measure_rates(small.absorbers, small.sensitivity, logistic, MG_II, replace_settings(min_velocity_kms=velocity))
        for velocity in (-3000.0, 30_000.0)
    )
    assert far.numbers["absorbers"] < near.numbers["absorbers"]
    assert (plain(far.rates, "path_searched") < plain(near.rates, "path_searched")).all()


def test_the_order_of_the_rows_does_not_matter(small):
    shuffle = np.random.default_rng(2).permutation
    rows = {
        name: np.asarray(values)[shuffle_of]
        for shuffle_of in [shuffle(len(small.absorbers["z_abs"]))]
        for name, values in small.absorbers.items()
    }
    lines = {
        name: values[shuffle_of] for shuffle_of in [shuffle(len(small.sensitivity["ra"]))] for name, values in small.sensitivity.items()
    }
    one, other = (st.measure_rates(a, s, logistic, MG_II, SETTINGS) for a, s in ((small.absorbers, small.sensitivity), (rows, lines)))
    for name in ("dndz", "dndz_upper", "dndx_jackknife"):
        np.testing.assert_allclose(plain(one.rates, name), plain(other.rates, name), rtol=1e-6)


def test_no_absorber_at_all(small):
    nothing = {name: np.asarray(values)[:0] for name, values in small.absorbers.items()}
    tables = st.measure_rates(nothing, small.sensitivity, logistic, MG_II, SETTINGS)
    assert (plain(tables.rates, "dndz") == 0).all() and (plain(tables.rates, "n_absorbers") == 0).all()
    upper = plain(tables.rates, "dndz_upper")
    assert (upper > 1.84 / plain(tables.rates, "path_searched")).all(), "incompleteness raises the limit that nothing found leaves"
    assert np.isnan(plain(tables.fit, "w_star")).all()
    with pytest.raises(st.StoreError, match="too few absorbers to fit f"):
        st.law_of(tables)


def test_one_sightline_and_places_where_nothing_is_seen():
    survey = make_survey(1, CONSTANT, z_qso=(1.2, 1.3), epochs=0.0)
    tables = st.measure_rates(survey.absorbers, survey.sensitivity, logistic, MG_II, SETTINGS)
    assert tables.numbers["jackknife_regions"] == 1 and np.isnan(plain(tables.rates, "dndz_jackknife")).all()
    beyond = plain(tables.rates, "z_low") >= 1.3
    assert np.isnan(plain(tables.rates, "dndz")[beyond]).all() and (plain(tables.rates, "path")[beyond] == 0).all()
    blind = survey.sensitivity | {"sigma_ew": np.array([np.full(len(survey.sensitivity["sigma_ew"][0]), 0.1), None], dtype=object)[:1]}
    rates = st.measure_rates(survey.absorbers, blind, logistic, MG_II, SETTINGS).rates
    assert np.isnan(plain(rates, "dndz")[0]) and np.isfinite(plain(rates, "dndz")[2]), "W = 0.3 Å is never 5 σ of 0.1 Å"


def test_astropy_tables_are_taken_as_they_are(small):
    assert SCORE < 1 < ERROR_FACTOR
    rows = QTable({name: values for name, values in small.absorbers.items() if name != "true_ew"})
    rows["ew_2796"].unit = rows["ew_2796_err"].unit = rows["sigma_ew"].unit = "Angstrom"
    lines = QTable(dict(small.sensitivity))
    one, other = (st.measure_rates(a, s, logistic, MG_II, SETTINGS).rates for a, s in ((small.absorbers, small.sensitivity), (rows, lines)))
    np.testing.assert_array_equal(plain(one, "dndz"), plain(other, "dndz"))


# ---- files and the command


def test_the_command_writes_what_python_gives(small, tmp_path: Path, capsys, no_spark):
    folder = write_result(small, tmp_path / "result", {"statistics": {"z_bins": [0.5, 1.0, 2.0], "regions": 5}})
    assert main(["statistics", str(folder), "--set", "statistics.om0=1.0", "statistics.ew_limits=[0.6,1]"]) == 0
    said = capsys.readouterr()
    assert "W* (Å)" in said.out and "not corrected" not in said.out and "sightlines" in said.err
    out = folder / "statistics"
    rates = QTable.read(out / "rates.ecsv")
    assert len(rates) == 6 and rates["ew_low"].unit == "Angstrom" and rates.meta["corrected"] and rates.meta["om0"] == 1.0
    settings = Statistics(z_bins=(0.5, 1.0, 2.0), regions=5, om0=1.0, ew_limits=(0.6, 1.0))
    again = st.result_statistics(folder, settings)
    np.testing.assert_array_equal(plain(rates, "dndz"), plain(again.rates, "dndz"))
    with fits.open(out / "rates.fits", checksum=True) as hdus:
        header, data = hdus[1].header, hdus[1].data
        np.testing.assert_array_equal(data["dndx"], plain(again.rates, "dndx"))
        assert header["CORRECT"] is True and '"om0": 1.0' in header["STATS"] and header["TUNIT3"] == "Angstrom"
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert pictures == ["dndx.png", "dndz.png", "ew_function.png", "g.png"]
    assert len(QTable.read(out / "g_of_ew_z.ecsv")) > 500 and len(QTable.read(out / "ew_fit.ecsv")) == 3


def test_without_the_completeness_a_sentence_says_how_it_is_made(small, tmp_path: Path, capsys, no_spark):
    folder = write_result(small, tmp_path / "result", completeness=False)
    assert main(["statistics", str(folder)]) == 2
    assert f"has no completeness.parquet: `nalspark completeness {folder}` makes it. With --uncorrected" in capsys.readouterr().err
    assert main(["statistics", str(folder), "--uncorrected", "--out", str(tmp_path / "out")]) == 0
    assert "These numbers are not corrected for completeness." in capsys.readouterr().out
    assert QTable.read(tmp_path / "out" / "rates.ecsv").meta["corrected"] is False
    assert fits.getval(tmp_path / "out" / "rates.fits", "CORRECT", 1) is False


def test_a_folder_that_cannot_be_written_and_a_result_of_an_earlier_version(small, tmp_path: Path, capsys, no_spark):
    folder = write_result(small, tmp_path / "result")
    (tmp_path / "file").touch()
    assert main(["statistics", str(folder), "--out", str(tmp_path / "file" / "x")]) == 2
    assert "The statistics cannot be written to" in capsys.readouterr().err
    assert main(["statistics", str(tmp_path / "nothing")]) == 2
    assert "is no result of nalspark" in capsys.readouterr().err
    import pyarrow.parquet as pq

    place = folder / "absorbers.parquet" / "part-0.parquet"
    pq.write_table(pq.read_table(place).drop_columns(["primary", "object_id"]), place)
    assert main(["statistics", str(folder)]) == 2
    assert "has no column 'primary': an earlier version of nalspark published it" in capsys.readouterr().err


def test_a_species_without_published_rates_has_none_to_compare_with(small):
    from nalspark.lines import C_IV

    rows = small.absorbers | {"ew_1548": small.absorbers["ew_2796"], "ew_1548_err": small.absorbers["ew_2796_err"]}
    lines = replace_columns(make_sensitivity(50))
    tables = st.measure_rates(rows, lines, logistic, C_IV, replace_settings(z_bins=(1.5, 2.0, 3.0)))
    assert "dndz_published" not in tables.rates.colnames and tables.species is C_IV
    assert replace(tables, corrected=False).corrected is False
    assert "Zhu+13" not in statistics_text(tables) and "1.5-2" in statistics_text(tables)


def replace_columns(sensitivity):
    """The same sightlines of farther quasars."""
    return sensitivity | {"z_qso": sensitivity["z_qso"] + 2.0}


def test_quasars_with_broad_absorption_are_left_out(small, tmp_path):
    """Half of the sightlines, and what they show, do not count: as if they were not primary."""
    settings = Statistics(without_bals=True)
    folder = write_result(small, tmp_path / "unknown")
    with pytest.raises(StoreError, match="does not know broad absorption: `nalspark balnicity"):
        st.result_statistics(folder, settings)
    broad = np.arange(len(small.sensitivity["primary"])) % 2 == 0
    of_broad = np.arange(len(small.absorbers["primary"])) % 2 == 0
    known = replace(
        small,
        sensitivity={**small.sensitivity, "bi_civ": np.where(broad, 800.0, np.where(small.sensitivity["z_qso"] > 1.5, 0.0, np.nan))},
        absorbers={**small.absorbers, "bi_civ": np.where(of_broad, 800.0, 0.0)},
    )
    folder = write_result(known, tmp_path / "known")
    manifest = read_manifest(folder / "manifest.json")
    manifest.tables[BALNICITY.name] = {}
    write_manifest(manifest, folder / "manifest.json")
    without = st.result_statistics(folder, settings)
    other = replace(
        small,
        sensitivity={**small.sensitivity, "primary": small.sensitivity["primary"] & ~broad},
        absorbers={**small.absorbers, "primary": small.absorbers["primary"] & ~of_broad},
    )
    expected = st.measure_rates(other.absorbers, other.sensitivity, CompletenessFunction.of(small.completeness), MG_II, settings)
    np.testing.assert_array_equal(without.rates["dndz"], expected.rates["dndz"])
    assert without.numbers["sightlines"] < st.result_statistics(folder, Statistics()).numbers["sightlines"]
