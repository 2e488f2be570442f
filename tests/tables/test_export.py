"""What a result is exported to is read back by the programs of those who asked for it: astropy, pandas, cuts on DESI's catalogue, picca."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import Table as AstropyTable

from nalspark.cli import main
from nalspark.errors import StoreError
from nalspark.lines import C_IV, MG_II, SPEED_OF_LIGHT_KMS, LineSpecies
from nalspark.settings import load
from nalspark.surveys.catalogs import open_catalog, read_rows
from nalspark.tables import export
from nalspark.tables.export import FORMATS, export_result
from nalspark.tables.manifest import Manifest, write_manifest
from nalspark.tables.result import open_result
from nalspark.tables.schemas import absorbers_table

Z_QSO, Z_ABS = 2.0, 1.25
#: Of 18 and 19 digits: a floating number of 64 bits holds neither.
IDS = (396_275_555_555_555_557, 9_223_372_036_854_775_807)
CSV_TYPES = {"targetid": "Int64", "catalogid": "Int64", "plate": "Int64", "healpix": "Int64"}


def absorber(targetid: int | None = IDS[0], *, depths: tuple[float, float] = (0.6, 0.5), **values: Any) -> dict[str, Any]:
    """A row of the catalogue that is consistent in itself: W = A σ √(2π) in Å of the absorber's frame."""
    sigma = 80.0
    row = {
        "absorber_id": f"main-dark-9144-{targetid}-38000", "spectrum_id": f"main-dark-9144-{targetid}", "part": "healpix00142",
        "targetid": targetid, "survey": "main", "program": "dark", "healpix": 9144, "ra": 150.0, "dec": -2.5, "z_qso": Z_QSO,
        "species": "MgII", "z_abs": Z_ABS, "z_abs_err": 1e-4, "sigma_fit_kms": sigma, "sigma_fit_kms_err": 8.0, "continuum_flux": 4.0,
        "fwhm_kms": 160.0, "ew_2600": 0.9, "ew_2600_err": 0.1, "ew_2852": 0.2, "ew_2852_err": 0.1, "ew_2344": None, "flags": 0,
        **values,
    }  # fmt: skip
    for line, depth in zip((MG_II.primary, MG_II.secondary), depths, strict=True):
        width = depth * sigma / SPEED_OF_LIGHT_KMS * line.wavelength * np.sqrt(2.0 * np.pi)
        row |= {f"depth_{line.label}": depth, f"depth_{line.label}_err": 0.05, f"ew_{line.label}": width}
        row |= {f"ew_{line.label}_err": 0.1, f"snr_{line.label}": width / 0.1}
    return row


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a result with these absorbers, half of them in each of two files."""

    def result(*rows: dict[str, Any], species: LineSpecies = MG_II, without: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / "result"
        published = folder / "absorbers.parquet"
        published.mkdir(parents=True, exist_ok=True)
        table = absorbers_table(species)
        whole = pa.Table.from_pylist(list(rows), table.arrow_schema).drop_columns(list(without))
        half = len(rows) // 2
        for name, part in (("part-00000.parquet", whole[:half]), ("part-00001.parquet", whole[half:])):
            pq.write_table(part, published / name)
        settings = load(overrides=[f"species={species.name}"]).model_dump(mode="json")
        write_manifest(Manifest(published={"absorbers.parquet": len(rows)}, settings=settings), folder / "manifest.json")
        return folder

    return result


def exported(folder: Path, form: str, **how: Any) -> AstropyTable:
    """The table that astropy reads of an export."""
    path, rows = export_result(folder, form, folder.parent / f"out.{form}", overwrite=True, **how)
    kind = {"votable": "votable", "ecsv": "ascii.ecsv", "csv": "ascii.csv"}.get(form, "fits")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        table = AstropyTable.read(path, format=kind, **({"guess": False} if kind == "ascii.csv" else {}))
    assert len(table) == rows
    return table


# ---- identifiers, nulls, units


@pytest.mark.parametrize("form", FORMATS)
def test_identifiers_of_18_and_19_digits_come_back_exactly(make: Make, form: str) -> None:
    table = exported(make(*(absorber(number) for number in IDS)), form)
    name = "TARGETID" if "TARGETID" in table.colnames else "targetid"
    assert table[name].dtype.kind == "i" and sorted(set(table[name].tolist())) == sorted(IDS)


def test_they_do_so_through_pandas_parquet_and_json(make: Make) -> None:
    folder = make(*(absorber(number) for number in IDS), absorber(None, catalogid=IDS[1]))
    export_result(folder, "csv")
    frame = pd.read_csv(folder / "absorbers.csv", dtype=CSV_TYPES)
    assert frame["targetid"].tolist()[:2] == list(IDS) and frame["targetid"].isna().tolist() == [False, False, True]
    assert frame["catalogid"].tolist()[2] == IDS[1]
    assert pq.read_table(folder / "absorbers.parquet")["targetid"].to_pylist() == [*IDS, None]
    result = open_result(folder)
    assert json.loads(json.dumps(result.table("absorbers", ["targetid"]).to_pylist())) == [{"targetid": n} for n in (*IDS, None)]
    assert [None if number is pd.NA else int(number) for number in result.absorbers.to_pandas()["targetid"]] == [*IDS, None]


@pytest.mark.parametrize("form", ["votable", "ecsv"])
def test_whole_tables_keep_units_ucds_and_nulls(make: Make, form: str) -> None:
    table = exported(make(absorber(), absorber(None, ra=None, survey=None)), form)
    declared = absorbers_table(MG_II)
    assert table.colnames == declared.names
    assert table["ew_2796"].unit == u.AA and table["fwhm_kms"].unit == u.km / u.s
    assert table["continuum_flux"].unit == u.Unit("1e-17 erg / (s cm2 Angstrom)")
    for column in declared.columns:  # astropy breaks the descriptions of a VOTable into lines
        assert "".join(table[column.name].description.split()) == "".join(column.description.split())
    ucds = [table[column.name].meta.get("ucd", "") for column in declared.columns]
    assert ucds == [column.ucd for column in declared.columns]
    assert table["targetid"].mask.tolist() == [False, True] and table["plate"].mask.all() and table["survey"].tolist()[0] == "main"
    assert np.ma.filled(table["survey"].astype(object), "").tolist()[1] == ""
    numbers = np.ma.filled(table["ra"].astype(float), np.nan)
    assert numbers[0] == 150.0 and np.isnan(numbers[1])


def test_numbers_of_text_are_those_of_the_catalogue(make: Make) -> None:
    folder = make(*(absorber(z_abs=float(z)) for z in np.random.default_rng(3).uniform(0.4, 2.0, 9)), absorber(absorber_id='a, "b"'))
    export_result(folder, "csv")
    text = pd.read_csv(folder / "absorbers.csv", float_precision="round_trip")
    rows = pq.read_table(folder / "absorbers.parquet").to_pandas()
    assert text["z_abs"].tolist() == rows["z_abs"].tolist() and text["absorber_id"].tolist() == rows["absorber_id"].tolist()
    assert text["ew_2344"].isna().all()


@pytest.mark.parametrize("form", FORMATS)
def test_a_catalogue_without_rows_is_exported(make: Make, form: str) -> None:
    assert len(exported(make(), form)) == 0


@pytest.mark.parametrize("form", ["desi-mgii", "picca-absorbercat", "csv", "ecsv"])
def test_batches_follow_each_other(make: Make, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(*(absorber(n) for n in range(11)))
    whole = exported(folder, form)
    monkeypatch.setattr("nalspark.tables.arrow._BATCH_ROWS", 2)
    pieces = exported(folder, form)
    assert len(whole) >= 11 and all(np.array_equal(np.ma.filled(whole[name], 0), np.ma.filled(pieces[name], 0)) for name in whole.colnames)


# ---- DESI


def test_the_columns_are_those_of_the_value_added_catalogue(make: Make) -> None:
    path, _ = export_result(make(absorber()), "desi-mgii")
    measured = ("EW_2796", "EW_2803", "Z_MGII", "AMP_2796", "AMP_2803", "STDDEV_2796", "STDDEV_2803")
    same = "TARGETID RA DEC SURVEY ZWARN TSNR2_QSO TSNR2_LYA TSNR2_LRG Z_QSO CONTINUUM_METHOD LINE_SNR_MIN LINE_SNR_MAX"
    expected = {*same.split(), *(f"{name}{end}" for name in measured for end in ("", "_ERR_LOW", "_ERR_HIGH"))}
    with fits.open(path) as hdus:
        table, header = hdus["MGII_ABSORBERS"], hdus["MGII_ABSORBERS"].header
        assert set(table.columns.names) == expected and len(table.columns.names) == len(expected)
        forms = {column.name: column.format for column in table.columns}
        units = {column.name: u.Unit(column.unit) for column in table.columns if column.unit}
        null = header[f"TNULL{table.columns.names.index('ZWARN') + 1}"]
        assert table.data["ZWARN"][0] == null and np.isnan(table.data["TSNR2_QSO"][0])
    assert forms["TARGETID"] == forms["ZWARN"] == "K" and forms["TSNR2_QSO"] == "E" and forms["AMP_2796_ERR_LOW"] == "D"
    assert units["AMP_2803"] == units["AMP_2803_ERR_HIGH"] == u.Unit("1e-17 erg / (Angstrom cm2 s)")
    assert units["STDDEV_2796"] == units["EW_2796"] == u.AA and units["RA"] == u.deg


def test_amplitude_and_width_give_the_equivalent_width(make: Make) -> None:
    """W = |A| σ √(2π) / (C (1 + z)), as the authors of that catalogue compute it."""
    table = exported(make(absorber(depths=(0.6, 0.35))), "desi-mgii")
    for label, depth in (("2796", 0.6), ("2803", 0.35)):
        amplitude, sigma = table[f"AMP_{label}"][0], table[f"STDDEV_{label}"][0]
        assert amplitude == pytest.approx(-depth * 4.0)
        assert table[f"AMP_{label}_ERR_LOW"][0] == table[f"AMP_{label}_ERR_HIGH"][0] == pytest.approx(0.05 * 4.0)
        assert table[f"STDDEV_{label}_ERR_LOW"][0] == pytest.approx(0.1 * sigma)
        width = abs(amplitude) * sigma * np.sqrt(2.0 * np.pi) / 4.0 / (1.0 + table["Z_MGII"][0])
        assert width == pytest.approx(table[f"EW_{label}"][0], rel=1e-12)
        assert table[f"EW_{label}_ERR_LOW"][0] == table[f"EW_{label}_ERR_HIGH"][0] == 0.1
    assert table["LINE_SNR_MIN"][0] < table["LINE_SNR_MAX"][0] == pytest.approx(table["EW_2796"][0] / 0.1)


def inside_ellipse(table: AstropyTable, centre: tuple[float, float], axes: tuple[float, float]) -> np.ndarray:
    """The cut in the ratios of amplitudes and widths, turned by 60°, with the numbers of the authors' public scripts."""
    x = table["AMP_2796"] / table["AMP_2803"] - centre[0]
    y = table["STDDEV_2796"] / table["STDDEV_2803"] - centre[1]
    along, across = x * 0.5 + y * np.sqrt(0.75), x * np.sqrt(0.75) - y * 0.5
    return np.asarray((along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 1.0)


@pytest.mark.parametrize("centre, axes", [((1.2, 1.2), (1.0, 1.2)), ((1.4, 1.4), (0.9, 0.9))])
@pytest.mark.parametrize("apart, near_quasar", [(5000.0, False), (-5000.0, True)])
def test_the_cuts_of_its_users_keep_good_doublets_only(
    make: Make, centre: tuple[float, float], axes: tuple[float, float], apart: float, near_quasar: bool
) -> None:
    """Napolitano et al. (2023): velocity from the quasar, which some scripts only cut behind it; absorption; the ellipse."""
    rows = {
        "saturated": (absorber(depths=(0.6, 0.58)), True),
        "usual": (absorber(depths=(0.6, 0.45)), True),
        "thin": (absorber(depths=(0.5, 0.27)), True),
        "near the quasar": (absorber(z_abs=Z_QSO - 0.01), near_quasar),
        "behind the quasar": (absorber(z_abs=Z_QSO + 0.06), False),
        "emission": (absorber(depths=(-0.3, -0.25)), False),
        "one line": (absorber(depths=(0.6, 0.05)), False),
        "second in emission": (absorber(depths=(0.6, -0.1)), False),
    }
    table = exported(make(*({**row, "targetid": number} for number, (row, _) in enumerate(rows.values()))), "desi-mgii")
    velocity = SPEED_OF_LIGHT_KMS * (table["Z_QSO"] - table["Z_MGII"]) / (1.0 + table["Z_QSO"])
    kept = (velocity > apart) & (table["AMP_2796"] < 0) & (table["AMP_2803"] < 0) & inside_ellipse(table, centre, axes)
    assert dict(zip(rows, kept.tolist(), strict=True)) == {name: good for name, (_, good) in rows.items()}


def test_our_own_reader_of_that_catalogue_reads_it(make: Make) -> None:
    rows = [absorber(number, z_abs=z, ra=ra) for number, z, ra in zip(IDS, (0.9, 1.7), (10.0, 359.5), strict=True)]
    path, _ = export_result(make(*rows), "desi-mgii")
    catalog = open_catalog(path, "absorbers", ["MgII"])
    assert catalog.map == "desi_mgii"
    batches = list(read_rows(catalog))
    read = {name: np.concatenate([batch[name] for batch in batches]).tolist() for name in batches[0]}
    assert read["targetid"] == list(IDS)
    for theirs, ours in (("z_abs", "z_abs"), ("ra", "ra"), ("ew_primary", "ew_2796"), ("ew_primary_err", "ew_2796_err"),
                         ("ew_secondary", "ew_2803"), ("ew_secondary_err", "ew_2803_err")):  # fmt: skip
        assert read[theirs] == [row[ours] for row in rows], theirs


# ---- picca


def test_picca_masks_the_observed_wavelengths_of_the_lines(make: Make) -> None:
    """Fe II 2600 is at 9 and 1 σ; Mg I 2852 at 2 σ and Fe II 2344, which is not covered, are left out."""
    folder = make(absorber(IDS[0], ew_2852_err=0.1), absorber(IDS[1], z_abs=0.8, ew_2600=0.1))
    path, rows = export_result(folder, "picca-absorbercat")
    table = AstropyTable.read(path, hdu="ABSORBERCAT")
    assert rows == 5 and table.colnames == ["TARGETID", "LAMBDA_ABS"] and table["LAMBDA_ABS"].unit == u.AA
    assert table["TARGETID"].tolist() == [IDS[0]] * 3 + [IDS[1]] * 2
    first, second = np.array([2796.3543, 2803.5315, 2600.1729]) * 2.25, np.array([2796.3543, 2803.5315]) * 1.8
    np.testing.assert_allclose(table["LAMBDA_ABS"], [*first, *second], rtol=1e-12)
    assert len(exported(folder, "picca-absorbercat", companion_snr=1.5)) == 7
    assert len(exported(folder, "picca-absorbercat", companion_snr=100.0)) == 4


@pytest.mark.parametrize(
    "values, name, expected",
    [
        ({"catalogid": IDS[1], "spectrum_id": "15000-60000-1"}, "LOS_ID", IDS[1]),
        ({"plate": 7102, "mjd": 56666, "fiber": 596, "spectrum_id": "7102-56666-0596"}, "LOS_ID", "7102-56666-0596"),
    ],
)
def test_picca_knows_sightlines_that_are_not_of_desi_by_los_id(make: Make, values: dict[str, Any], name: str, expected: Any) -> None:
    table = exported(make(absorber(None, **values)), "picca-absorbercat")
    table.convert_bytestring_to_unicode()
    assert set(table[name].tolist()) == {expected}


def test_picca_takes_another_species(make: Make) -> None:
    row = {"absorber_id": "a", "spectrum_id": "s", "targetid": 1, "z_abs": 2.0}
    np.testing.assert_allclose(exported(make(row, species=C_IV), "picca-absorbercat")["LAMBDA_ABS"], [3 * 1548.204, 3 * 1550.781])


# ---- the door


def test_the_command_writes_where_it_is_told(make: Make, capsys: pytest.CaptureFixture[str], no_spark: None) -> None:
    folder = make(absorber())
    assert main(["export", str(folder), "--format", "csv"]) == 0
    assert capsys.readouterr().out == f"1 rows  {folder / 'absorbers.csv'}\n"
    out = folder.parent / "there.fits"
    assert main(["export", str(folder), "--format", "picca-absorbercat", "--out", str(out), "--companion-snr", "0"]) == 0
    assert fits.getdata(out, "ABSORBERCAT").shape == (4,)


def test_refusals_are_sentences(make: Make, capsys: pytest.CaptureFixture[str], no_spark: None, tmp_path: Path) -> None:
    def said(*words: object) -> str:
        assert main(["export", *map(str, words)]) == 2
        return capsys.readouterr().err

    folder = make(absorber())
    assert "Did you mean 'desi-mgii'?" in said(folder, "--format", "desi-mg2")
    assert "is no result of nalspark" in said(tmp_path / "nowhere", "--format", "csv")
    assert "is a folder; give --out the name of a file" in said(folder, "--format", "csv", "--out", tmp_path)
    assert "a number of 0 or more is expected" in said(folder, "--format", "picca-absorbercat", "--companion-snr", "-1")
    assert "cannot be written" in said(folder, "--format", "csv", "--out", tmp_path / "no" / "such" / "x.csv")
    sdss = make(absorber(), absorber(None, plate=1))
    assert "1 absorbers of" in (sentence := said(sdss, "--format", "desi-mgii")) and "have no TARGETID" in sentence
    early = make(absorber(continuum_flux=None))
    assert "Repeat the run that made the result with --force" in said(early, "--format", "desi-mgii")
    earlier = make(absorber(), without=("depth_2796",))
    assert "have no column 'depth_2796'" in said(earlier, "--format", "desi-mgii")
    assert main(["export", str(earlier), "--format", "csv"]) == 0, "what it has is written"
    assert "holds Mg II only" in said(make({"absorber_id": "a", "targetid": 1, "z_abs": 2.0}, species=C_IV), "--format", "desi-mgii")
    (folder / "absorbers.parquet").rename(folder / "gone")
    assert "is not published yet" in said(folder, "--format", "ecsv")


def test_a_file_is_replaced_only_where_that_is_asked_for(make: Make) -> None:
    folder = make(absorber())
    path, _ = export_result(folder, "csv")
    before = path.read_bytes()
    make(absorber(), absorber(IDS[1]))
    with pytest.raises(StoreError, match="is there already. Give --overwrite"):
        export_result(folder, "csv")
    assert path.read_bytes() == before
    assert export_result(folder, "csv", overwrite=True)[1] == 2 and path.read_bytes() != before


@pytest.mark.parametrize("form", FORMATS)
def test_what_fails_leaves_the_old_file_and_nothing_else(make: Make, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(absorber())
    path, _ = export_result(folder, form)
    before, files = path.read_bytes(), sorted(folder.iterdir())
    place = {"votable": "to_qtable", "csv": "read_batches", "ecsv": "read_batches"}.get(form, "write_fits")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, place, fail)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        export_result(folder, form, overwrite=True)
    assert path.read_bytes() == before and sorted(folder.iterdir()) == files


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_of_the_result_is_named(make: Make, form: str) -> None:
    folder = make(absorber(), absorber(IDS[1]))
    damaged = folder / "absorbers.parquet" / "part-00001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-40] + bytes(32) + b"PAR1" * 2)
    files = sorted(folder.iterdir())
    with pytest.raises(StoreError, match=r"part-00001\.parquet' is not readable as Parquet"):
        export_result(folder, form)
    assert sorted(folder.iterdir()) == files


@pytest.mark.parametrize("place", ["manifest.json", "absorbers.fits", "tables/x.csv", "versions/0001/x.csv", "tables/../manifest.json"])
@pytest.mark.parametrize("version", [False, True])
def test_a_file_of_the_result_is_never_replaced(make: Make, place: str, version: bool) -> None:
    """Neither by an export of the result, nor by one of a version that it keeps."""
    folder = make(absorber())
    manifest = open_result(folder).manifest
    manifest.published["absorbers.fits"] = 1
    write_manifest(manifest, folder / "manifest.json")
    (folder / "tables").mkdir()
    source = Path(shutil.copytree(folder, folder / "versions" / "0002")) if version else folder
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match="is the place of a file of the result itself"):
        export_result(source, "csv", folder / place, overwrite=True)
    assert (folder / "manifest.json").read_bytes() == before and not (folder / place).is_dir()
    assert export_result(source, "csv")[0] == source / "absorbers.csv"


def test_a_votable_of_too_many_rows_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(absorber(), absorber(IDS[1]))
    monkeypatch.setattr(export, "_VOTABLE_ROWS", 1)
    with pytest.raises(StoreError, match="2 rows; a VOTable is made in memory, of at most 1. Export csv or ecsv"):
        export_result(folder, "votable")


def test_neither_spark_nor_keras_is_loaded(make: Make) -> None:
    code = "import sys, nalspark; print(nalspark.export_result(sys.argv[1], 'desi-mgii')[1]); "
    code += "print([name for name in ('pyspark', 'keras', 'tensorflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, str(make(absorber()))], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["1", "[]"]
