"""Every table of nalspark, declared once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nalspark.lines import LineSpecies, Transition
from nalspark.tables.table import REJECTION_COLUMNS, Column, Table

_SPECTRUM_ID = Column(
    "spectrum_id",
    "string",
    "SDSS: PPPP-MJD-FFFF (4 or 5 digits of plate); SDSS-V: field-mjd-catalogid; DESI: survey-program-healpix-targetid, or, of files of "
    "tiles, tile-night-petal-targetid",
    ucd="meta.id;meta.main",
)
PART = Column(
    "part",
    "string",
    "The unit in which tables are replaced and resumed: a range of plates, fields or tiles, or a HEALPix pixel of nside 8",
    ucd="meta.id.part",
)
_PATH = Column("path", "string", "Where the spectrum was read from", ucd="meta.file")
#: What the surveys themselves call a spectrum; null where it does not apply.
_IDS = (
    Column("plate", "int", "SDSS plate number", ucd="meta.id"),
    Column("mjd", "int", "Modified Julian date of the observation: SDSS and SDSS-V", "d", "time.epoch"),
    Column("fiber", "int", "SDSS fiber number on the plate", ucd="meta.id"),
    Column("field", "int", "SDSS-V field number", ucd="meta.id"),
    Column("catalogid", "long", "SDSS-V CATALOGID", ucd="meta.id"),
    Column("targetid", "long", "DESI TARGETID", ucd="meta.id"),
    Column("survey", "string", "DESI survey: main, sv1, sv3, special, …", ucd="meta.id"),
    Column("program", "string", "DESI program: dark, bright, backup, …", ucd="meta.id"),
    Column("healpix", "int", "DESI HEALPix pixel of the file", ucd="meta.id"),
    Column("tile", "int", "DESI tile of the file", ucd="meta.id"),
)
NATIVE_IDS = tuple(column.name for column in _IDS)
_POSITION = (
    Column("ra", "double", "Right ascension, ICRS", "deg", "pos.eq.ra;meta.main"),
    Column("dec", "double", "Declination, ICRS", "deg", "pos.eq.dec;meta.main"),
)
#: What a spectrum is called, where it lies in the tables, on disk and on the sky.
_SPECTRUM = (
    _SPECTRUM_ID,
    PART,
    _PATH,
    Column("format", "string", "What the file is: sdss_spec, sdss_spspec, sdssv_spec, desi_coadd", ucd="meta.id"),
    *_IDS,
    *_POSITION,
)
_Z_QSO = Column("z_qso", "double", "Redshift of the quasar", ucd="src.redshift")
_Z_QSO_ERR = Column(
    "z_qso_err",
    "double",
    "Standard error of z_qso as its source, the pipeline or the catalogue, states it: statistical only; null where it states none",
    ucd="stat.error;src.redshift",
)
_VELOCITY_ERR = Column(
    "velocity_err_kms",
    "double",
    "Standard error of velocity_kms by z_qso_err and z_abs_err, statistical only; null without z_qso_err",
    "km/s",
    "stat.error;phys.veloc",
)

FILES = Table(
    "files",
    "One row per file found below the given spectra.",
    (
        _PATH,
        Column("size", "long", "Size of the file", "byte", "meta.number"),
        Column("modified_ns", "long", "Time of the last change, nanoseconds since 1970", "ns", "time.epoch"),
        PART,
    ),
)

FETCH_FAILURES = Table(
    "fetch_failures",
    "One row per file that could not be fetched from the archive, and per row of the catalogue that names none: `fetch_failures.csv` in "
    "the folder of `nalspark fetch`. `spectrum_id` of a DESI file is what its spectra share: survey-program-healpix.",
    (_SPECTRUM_ID, *_IDS, Column("url", "string", "Where it was looked for", ucd="meta.ref.url"), *REJECTION_COLUMNS),
)

SPECTRA = Table(
    "spectra",
    "One row per spectrum as the survey published it, on its own pixels.",
    (
        *_SPECTRUM,
        Column("z_pipeline", "double", "Redshift from the survey's own pipeline, stored in the file", ucd="src.redshift"),
        Column(
            "z_pipeline_err",
            "double",
            "Standard error of z_pipeline as the pipeline states it; null where it states none above 0",
            ucd="stat.error;src.redshift",
        ),
        Column("z_warning", "int", "ZWARNING bits of the survey's pipeline; bit 0 is a sky fiber", ucd="meta.code.qual"),
        Column(
            "object_class",
            "string",
            "Class from the survey's pipeline: QSO, GALAXY, STAR, SKY, empty, or why its file is of no use",
            ucd="src.class",
        ),
        Column("first_pixel", "int", "Lattice index of the first pixel; null where the spectrum is off the lattice", ucd="meta.number"),
        Column("loglam", "pixels<f8>", "log10 of the vacuum wavelength in Å, only where the spectrum is off the lattice", ucd="em.wl"),
        Column("flux", "pixels<f4>", "Flux density", "1e-17 erg/s/cm^2/Angstrom", "phot.flux.density;em.wl"),
        Column("ivar", "pixels<f4>", "Inverse variance of the flux", "1e34 s^2 cm^4 Angstrom^2/erg^2", "stat.variance"),
        Column("mask", "pixels<u1>", "Bits of PixelFlag", ucd="meta.code"),
        Column(
            "resolution",
            "pixels<f4>",
            "Gaussian σ of the line-spread function at every 100th lattice pixel from 3560 Å on; null where the file does not say",
            "pixel",
        ),
        Column(
            "scatter",
            "pixels<f4>",
            "Scatter of single pixels over that which `ivar` says and which holds in sums, at these places; null if not rebinned",
        ),
    ),
)

MATCHES = Table(
    "matches",
    "One row per spectrum and catalogue in which it was found.",
    (
        _SPECTRUM_ID,
        PART,
        Column("kind", "string", "What the catalogue has: 'quasars' or 'absorbers'", ucd="meta.code"),
        Column("catalogue", "string", "Name of the catalogue: its file name", ucd="meta.id"),
        Column("row", "long", "The first of the catalogue's rows on this sightline, counted from 0", ucd="meta.record"),
        Column("n_rows", "long", "How many rows the catalogue has on this sightline", ucd="meta.number"),
        Column("match", "string", "How it was matched: 'id' (plate, mjd, fiber; TARGETID; CATALOGID) or 'sky'", ucd="meta.code"),
        Column(
            "separation_arcsec",
            "double",
            "Angular distance to the catalogue's position; null where one has none",
            "arcsec",
            "pos.angDistance",
        ),
        Column(
            "n_systems",
            "int",
            "Absorption systems that the catalogue has in this sightline; null, as the columns below, for quasars",
            ucd="meta.number",
        ),
        Column("n_strong", "int", "Of these, systems with both equivalent widths above the label's significance", ucd="meta.number"),
        Column("z_abs", "list<double>", "Their absorption redshifts", ucd="src.redshift"),
        Column(
            "ew_primary", "list<double>", "Their rest equivalent widths in the first line of the doublet", "Angstrom", "spect.line.eqWidth"
        ),
        Column("strong", "list<bool>", "Whether each is strong; null where an earlier version matched", ucd="meta.code"),
    ),
)

#: What the crossmatch knows of a spectrum, before it is searched.
TARGETS = Table(
    "targets",
    "One row per spectrum that will be searched: whose it is, at which redshift, and what is known of it.",
    (
        *_SPECTRUM,
        _Z_QSO,
        _Z_QSO_ERR,
        Column("z_source", "string", "Where z_qso comes from: 'pipeline' or the name of the quasar catalogue", ucd="meta.ref"),
        Column("z_match", "string", "How the quasar catalogue was matched: 'id', 'sky' or null", ucd="meta.code"),
        Column(
            "z_separation_arcsec",
            "double",
            "Distance to the catalogue's quasar; null where not matched by position",
            "arcsec",
            "pos.angDistance",
        ),
        Column(
            "label",
            "int",
            "1: a catalogue has a strong system here; 0: one covers this spectrum, and none has any; null: not covered, or excluded",
            ucd="meta.code",
        ),
        Column("catalogues", "list<string>", "The absorber catalogues in which this sightline is found", ucd="meta.ref"),
        Column("covered", "list<string>", "The absorber catalogues that cover this spectrum, listed there or not", ucd="meta.ref"),
    ),
).rejectable()

_SEARCHED = (
    _SPECTRUM_ID,
    PART,
    *_POSITION,
    *_IDS,
    _Z_QSO,
    Column(
        "rescale",
        "float",
        "Factor by which flux and continuum were divided: the median flux of the clean region",
        "1e-17 erg/s/cm^2/Angstrom",
    ),
    Column("snr", "float", "Median signal-to-noise ratio per pixel in the search window", ucd="stat.snr"),
    Column("z_start", "list<double>", "Lower ends of the searched redshift intervals", ucd="src.redshift;stat.min"),
    Column("z_stop", "list<double>", "Upper ends of the searched redshift intervals", ucd="src.redshift;stat.max"),
    Column("redshift_path", "double", "Searched redshift path: the sum of the intervals", ucd="src.redshift"),
)

SEARCHED = Table("searched", "One row per target: which redshifts were searched in its spectrum, or why none were.", _SEARCHED).rejectable()

_SIGMA_EW = Column(
    "sigma_ew",
    "float",
    "Error of the equivalent width of a line of known place and typical width: of the worse line of the doublet, mean of the bin",
    "Angstrom",
    "stat.error;spect.line.eqWidth",
)
_SENSITIVITY = (
    Column(
        "first_bin", "int", "Number of the first bin: bin k holds the lattice pixels 11 k to 11 k + 10 of the first line", ucd="meta.number"
    ),
    replace(_SIGMA_EW, kind="pixels<f2>"),
    Column("n_searched", "pixels<u1>", "Searched pixels of each bin, 0 to 11", ucd="meta.number"),
)
SENSITIVITY = Table(
    "sensitivity",
    "One row per searched spectrum: how well an absorber would be seen, bin by bin of redshift.",
    (_SPECTRUM_ID, PART, *_SENSITIVITY),
)

#: Not on disk: made again from spectra and targets where somebody asks for it.
NORMALIZED = Table(
    "normalized",
    "One row per searched spectrum on the common grid, with its continuum.",
    (
        *_SEARCHED,
        Column("flux", "pixels<f4>", "Flux divided by `rescale`", ucd="phot.flux.density;em.wl"),
        Column("ivar", "pixels<f4>", "Inverse variance of `flux`, scaled to the measured scatter of the residuals", ucd="stat.variance"),
        Column("continuum", "pixels<f4>", "Fitted continuum in the unit of `flux`", ucd="spect.continuum"),
        Column("mask", "pixels<u1>", "Bits of PixelFlag", ucd="meta.code"),
    ),
).rejectable()

_CONTINUUM = Column(
    "continuum_flux",
    "float",
    "Fitted continuum at the first line of the doublet; null where an earlier version searched, which did not keep it",
    "1e-17 erg/s/cm^2/Angstrom",
    "spect.continuum",
)
CANDIDATES = Table(
    "candidates",
    "One row per candidate doublet: where it is, how significant, and its image.",
    (
        Column("candidate_id", "string", "spectrum_id and the lattice pixel of the first line", ucd="meta.id;meta.main"),
        _SPECTRUM_ID,
        PART,
        *_IDS,
        *_POSITION,
        _Z_QSO,
        Column("z_start", "double", "Start of the searched redshift interval that the candidate lies in", ucd="src.redshift;stat.min"),
        Column("z_stop", "double", "End of that interval", ucd="src.redshift;stat.max"),
        Column("z_search", "double", "Redshift at which the matched filter peaks", ucd="src.redshift"),
        Column("pixel", "int", "Grid pixel of the first line of the doublet: the centre of the image", ucd="meta.number"),
        Column("width_pixels", "float", "Gaussian σ of the best filter, grid pixels", "pixel"),
        Column("instrument_pixels", "float", "Gaussian σ of the line-spread function at the doublet; null where it is not known", "pixel"),
        _CONTINUUM,
        Column("significance", "float", "Matched-filter significance of the doublet, both lines together", ucd="stat.snr"),
        Column("filter_snr_primary", "float", "Matched-filter signal-to-noise ratio of the first line", ucd="stat.snr"),
        Column("filter_snr_secondary", "float", "Matched-filter signal-to-noise ratio of the second line", ucd="stat.snr"),
        Column(
            "neighbour_pixels", "float", "Distance to the nearest other candidate of this spectrum, grid pixels; null where alone", "pixel"
        ),
        Column(
            "depressed_fraction",
            "float",
            "Fraction of the pixels within 5000 km/s that lie significantly below the continuum: BAL troughs",
            ucd="stat",
        ),
        Column(
            "crowding",
            "float",
            "Narrow features of the spectrum that this candidate does not explain, per 1000 searched pixels",
            ucd="stat",
        ),
        _SIGMA_EW,
        Column("image_residual", "pixels<f4>", "1 - flux/continuum, one row per transition, one column per velocity pixel"),
        Column("image_inverse_error", "pixels<f4>", "Inverse standard error of image_residual; 0 where there is no data"),
    ),
)


def _width_columns(line: Transition, suffix: str = "", how: str = "") -> tuple[Column, Column]:
    """A line's rest equivalent width and its standard error."""
    name = f"ew_{line.label}{suffix}"
    return (
        Column(name, "double", f"Rest equivalent width of {line}{how}", "Angstrom", "spect.line.eqWidth"),
        Column(f"{name}_err", "double", f"Standard error of {name}", "Angstrom", "stat.error;spect.line.eqWidth"),
    )


def _depth_columns(line: Transition) -> tuple[Column, Column]:
    """The amplitude of a line's Gaussian and its standard error."""
    name = f"depth_{line.label}"
    return (
        Column(name, "double", f"Depth of {line} at its centre, instrument included, over the continuum", ucd="spect.line"),
        Column(f"{name}_err", "double", f"Standard error of {name}", ucd="stat.error;spect.line"),
    )


_OBJECT_ID = Column(
    "object_id",
    "string",
    "Name of the object: spectra within crossmatch.match_radius_arcsec of each other share it; spectrum_id without a position",
    ucd="meta.id",
)
_BI = Column(
    "bi_civ", "double", "Balnicity index of the quasar in C IV (Weymann et al. 1991); null where not covered or not measured", "km/s"
)
BALNICITY = Table(
    "balnicity",
    "One row per spectrum that can be searched: broad absorption of the quasar in C IV.",
    (
        _SPECTRUM_ID,
        PART,
        _BI,
        Column("bi_civ_err", "double", "Standard error of bi_civ by the errors of the flux", "km/s", "stat.error"),
        Column("ai_civ", "double", "Absorption index of the quasar in C IV (Trump et al. 2006)", "km/s"),
        Column("ai_civ_err", "double", "Standard error of ai_civ by the errors of the flux", "km/s", "stat.error"),
        Column("trough_start", "list<double>", "Shorter wavelengths, observed, of the troughs of ai_civ", "Angstrom", "em.wl;stat.min"),
        Column("trough_stop", "list<double>", "Longer wavelengths of the troughs", "Angstrom", "em.wl;stat.max"),
    ),
)
_PRIMARY = Column(
    "primary",
    "bool",
    "Whether this spectrum stands for its object in rates: that of the highest S/N, so that each quasar counts once",
    ucd="meta.code",
)
#: What is known of an absorber when the catalogue is published.
_IN_CATALOGUE = (
    _OBJECT_ID,
    _PRIMARY,
    Column(
        "system_id",
        "string",
        "Name of the system: absorbers of one object at one redshift share it, whatever their ion and spectrum",
        ucd="meta.id",
    ),
    Column(
        "completeness",
        "double",
        "Fraction of such absorbers, with this equivalent width in such a place, that are found; null before `nalspark completeness`",
        ucd="stat.probability",
    ),
    Column("weight", "double", "score / completeness: how many absorbers the row stands for", ucd="stat.weight"),
    _BI,
    Column("in_trough", "bool", "Whether the first line lies in a broad trough of C IV; null before `nalspark balnicity`", ucd="meta.code"),
)


def _column_density_columns(species: LineSpecies) -> list[Column]:
    """Column densities of the doublet's ion and of every line. A logarithm has no unit that FITS or VOUnit know: the text says cm⁻²."""
    ucd, first, second = "phys.columnDensity", species.primary, species.secondary
    columns = [
        Column(
            "saturated",
            "bool",
            f"True unless {first.label} and {second.label} agree in their column densities to 0.05 dex, shown by one standard error, and "
            "neither is black: log_n and those of both lines are then lower limits",
            ucd="meta.code.qual",
        ),
        Column(
            "log_n",
            "double",
            f"log10 of the column density of {first.ion} in cm^-2: {second.label} alone where it is well measured, else the weighted mean "
            "of both lines",
            ucd=ucd,
        ),
        Column("log_n_err", "double", "Standard error of log_n, dex", ucd=f"stat.error;{ucd}"),
    ]
    for line in (first, second, *species.companions):
        name = f"log_n_{line.label}"
        columns += [
            Column(
                name,
                "double",
                f"log10 of the column density of {line.ion} in cm^-2, from {line.label} by apparent optical depth; null where nothing is "
                "absorbed or the line is not covered",
                ucd=ucd,
            ),
            Column(f"{name}_err", "double", f"Standard error of {name}, dex", ucd=f"stat.error;{ucd}"),
            Column(
                f"log_n_linear_{line.label}",
                "double",
                f"The same from ew_{line.label} as if the line were thin; its error in dex is 0.434 ew_{line.label}_err / ew_{line.label}",
                ucd=ucd,
            ),
        ]
    return columns


#: How a reader tells absorbers of the quasar from others, and what the error of a velocity is.
_NEAR_OR_NOT = """\
**The quasar's own, or not.** `velocity_kms > 5000 + 3 * velocity_err_kms` takes the absorbers that lie more than 5000 km/s in front of
their quasar by three standard errors at least (intervening), `velocity_kms < 5000 - 3 * velocity_err_kms` those that do not
(associated). Rows between them, and rows without an error, are in neither. The flags `NEAR_QUASAR` and `BEYOND_QUASAR` do not look at
the error.

`z_qso_err` is what the pipeline or the catalogue states for the redshift that was taken, never the error of another one. It is
statistical: how well a template fits the spectrum's noise. Broad lines do not lie at the redshift of their galaxy; C IV is often
blueshifted by many hundred km/s, and a redshift that rests on it is wrong by as much. That is in no stated error. To allow for it, put
`numpy.hypot(velocity_err_kms, 500)`, or what you believe, in the place of `velocity_err_kms`."""


def absorbers_table(species: LineSpecies) -> Table:
    """Declare the catalogue of one species: the columns ``ew_<line>`` follow from its transitions."""
    beside = {"z_qso": (_Z_QSO_ERR,), "velocity_kms": (_VELOCITY_ERR,)}  # known when the catalogue is published
    measured = [one for column in _measured_columns(species) for one in (column, *beside.get(column.name, ()))]
    return Table("absorbers", f"One row per {species.name} absorber.", (*measured, *_IN_CATALOGUE), _NEAR_OR_NOT)


def all_absorbers_table(species: Sequence[LineSpecies]) -> Table:
    """Declare one catalogue of several species: the columns of each; a row has those of its own."""
    columns = {column.name: column for one in species for column in absorbers_table(one).columns}
    ions = Column("n_ions", "int", "Species of this table that the system shows", ucd="meta.number")
    return Table("absorbers", f"One row per absorber of {', '.join(one.name for one in species)}.", (*columns.values(), ions))


def _measured_columns(species: LineSpecies) -> tuple[Column, ...]:
    first, second = species.primary, species.secondary
    columns = [
        Column(
            "absorber_id",
            "string",
            "Name of the absorber: spectrum_id and the lattice pixel at which it was found",
            ucd="meta.id;meta.main",
        ),
        replace(_SPECTRUM_ID, ucd="meta.id"),
        PART,
        *_IDS,
        *_POSITION,
        _Z_QSO,
        Column("species", "string", "Line species searched", ucd="meta.id"),
        Column("z_abs", "double", "Absorption redshift from the doublet fit", ucd="src.redshift"),
        Column("z_abs_err", "double", "Standard error of z_abs", ucd="stat.error;src.redshift"),
        *_width_columns(first),
        *_width_columns(second),
        Column(f"snr_{first.label}", "double", f"ew_{first.label} over its error", ucd="stat.snr"),
        Column(f"snr_{second.label}", "double", f"ew_{second.label} over its error", ucd="stat.snr"),
        Column(
            "fwhm_kms",
            "double",
            "Full width at half maximum of the lines, instrument removed; 0 where unresolved",
            "km/s",
            "spect.line.width",
        ),
        Column("fwhm_kms_err", "double", "Standard error of fwhm_kms", "km/s", "stat.error;spect.line.width"),
        *_depth_columns(first),
        *_depth_columns(second),
        Column("sigma_fit_kms", "double", "Gaussian σ of both lines as fitted, instrument included", "km/s", "spect.line.width"),
        Column("sigma_fit_kms_err", "double", "Standard error of sigma_fit_kms", "km/s", "stat.error;spect.line.width"),
        _CONTINUUM,
        Column("doublet_ratio", "double", f"ew_{first.label} / ew_{second.label}", ucd="arith.ratio"),
        Column("doublet_ratio_err", "double", "Standard error of doublet_ratio", ucd="stat.error;arith.ratio"),
        *_width_columns(first, "_box", " by direct summation"),
        *_width_columns(second, "_box", " by direct summation"),
    ]
    for line in species.companions:
        columns += _width_columns(line)
    columns += [
        *_column_density_columns(species),
        Column("chi2_reduced", "double", "χ² per degree of freedom of the doublet fit", ucd="stat.fit.chi2"),
        Column("significance", "double", "Matched-filter significance with which it was found", ucd="stat.snr"),
        _SIGMA_EW,
        Column("velocity_kms", "double", "Velocity of the absorber towards us with respect to z_qso", "km/s", "phys.veloc"),
        Column(
            "score",
            "double",
            "Calibrated probability, from the network, that this is an absorber of the species",
            ucd="stat.probability",
        ),
        Column("flags", "int", "Bits of AbsorberFlag; 0: nothing to remark", ucd="meta.code.qual"),
    ]
    return tuple(columns)


ACCEPTED = Column("accepted", "bool", "Whether the score reaches infer.min_score: an absorber", ucd="meta.code")


def measured_table(species: LineSpecies) -> Table:
    """Declare the catalogue's columns for every candidate, and whether its score makes it an absorber."""
    return Table("measured", "One row per candidate, measured.", (*_measured_columns(species), ACCEPTED))


SIGHTLINES = Table(
    "sightlines",
    "One row per searched spectrum, those without an absorber included.",
    (
        *(column for column in TARGETS.columns if column not in REJECTION_COLUMNS),
        _OBJECT_ID,
        _PRIMARY,
        Column("n_epochs", "int", "Searched spectra of this object, this one included", ucd="meta.number"),
        *SEARCHED.select("snr", "z_start", "z_stop", "redshift_path"),
        Column("n_absorbers", "int", "Absorbers found, those with the flag OFF_PATH included", ucd="meta.number"),
        *BALNICITY.columns[2:],
        Column(
            "matches",
            "string",
            "Matches to the catalogues given, as JSON: a list of {catalogue, match, separation_arcsec, n_systems, n_strong, z_abs}",
        ),
    ),
)

#: The same table, published: with all that a rate or a random catalogue needs to know of a sightline.
PUBLISHED_SENSITIVITY = replace(
    SENSITIVITY, columns=(_SPECTRUM_ID, _OBJECT_ID, _PRIMARY, *_POSITION, _Z_QSO, *SEARCHED.select("snr"), _BI, *_SENSITIVITY)
)

_INJECTED = (
    Column("z_abs", "double", "Redshift of the absorber put in", ucd="src.redshift"),
    Column("ew_primary", "double", "Its rest equivalent width in the first line", "Angstrom", "spect.line.eqWidth"),
    Column("ew_secondary", "double", "Its rest equivalent width in the second line", "Angstrom", "spect.line.eqWidth"),
    Column("sigma_kms", "double", "Its Gaussian σ before the instrument: root of the second moment", "km/s", "spect.line.width"),
)
INJECTIONS = Table(
    "injections",
    "One row per absorber put into a spectrum of the run, and whether it was found.",
    (
        _SPECTRUM_ID,
        PART,
        _Z_QSO,
        *SEARCHED.select("snr"),
        *_INJECTED,
        _SIGMA_EW,
        Column("blended", "bool", "Whether the spectrum has an absorber of its own there: such a row says nothing", ucd="meta.code"),
        Column("found", "bool", "Whether the catalogue would have it", ucd="meta.code"),
        Column("score", "float", "Score of the best candidate there; null where there is none", ucd="stat.probability"),
        Column("z_found", "double", "Its measured redshift; null where it was not measured", ucd="src.redshift"),
        Column("ew_found", "double", "Its measured equivalent width, first line", "Angstrom", "spect.line.eqWidth"),
        Column("ew_found_err", "double", "Standard error of ew_found", "Angstrom", "stat.error;spect.line.eqWidth"),
    ),
)
DECOYS = Table(
    "decoys",
    "One row per pair of lines at a wrong separation that was measured as a doublet would be: what chance, sky and continuum give.",
    (
        _SPECTRUM_ID,
        PART,
        Column("separation_kms", "float", "Separation of the lines that was searched", "km/s", "phys.veloc"),
        Column("z_abs", "double", "Redshift, were it a doublet", ucd="src.redshift"),
        Column("ew_primary", "double", "Rest equivalent width of the first line", "Angstrom", "spect.line.eqWidth"),
        Column("significance", "double", "Matched-filter significance", ucd="stat.snr"),
        Column("score", "float", "Score of the network", ucd="stat.probability"),
        Column("accepted", "bool", "Whether the catalogue would have it", ucd="meta.code"),
        Column("weight", "float", "Searched path of the spectrum over that without lines of its own absorbers", ucd="stat.weight"),
    ),
)
COMPLETENESS = Table(
    "completeness",
    "The completeness function, and the counts that it was made from: one row per bin.",
    (
        PART,
        Column("by", "string", "What the bins are bins of: significance (the function itself), ew, z, snr", ucd="meta.id"),
        Column("ew_low", "double", "Least rest equivalent width of the first line", "Angstrom", "spect.line.eqWidth;stat.min"),
        Column("ew_high", "double", "Greatest rest equivalent width", "Angstrom", "spect.line.eqWidth;stat.max"),
        Column("z_low", "double", "Least redshift", ucd="src.redshift;stat.min"),
        Column("z_high", "double", "Greatest redshift", ucd="src.redshift;stat.max"),
        Column("low", "double", "Lower end of the bin, of W / sigma_ew, of W, of redshift or of the S/N of the spectrum", ucd="stat.min"),
        Column("high", "double", "Upper end of the bin", ucd="stat.max"),
        Column("middle", "double", "Mean over the absorbers put in of what the bins are bins of", ucd="stat.mean"),
        Column("mean_ew", "double", "Mean rest equivalent width of the absorbers put in", "Angstrom", "spect.line.eqWidth;stat.mean"),
        Column("mean_z", "double", "Mean redshift of the absorbers put in", ucd="src.redshift;stat.mean"),
        Column("n_injected", "long", "Absorbers put in", ucd="meta.number"),
        Column("n_found", "long", "Of them found", ucd="meta.number"),
        Column("fraction", "double", "n_found / n_injected", ucd="stat.probability"),
        Column("lower", "double", "Lower end of the 68 % interval of the fraction (Wilson)", ucd="stat.probability;stat.min"),
        Column("upper", "double", "Upper end of that interval", ucd="stat.probability;stat.max"),
        Column("completeness", "double", "The function there; null but by significance", ucd="stat.probability"),
    ),
)

_ZONE = (
    Column("z_low", "double", "Lower end of the redshifts", ucd="src.redshift;stat.min"),
    Column("z_high", "double", "Upper end of the redshifts", ucd="src.redshift;stat.max"),
)
_COUNTED = (
    Column("n_absorbers", "long", "Rows of the catalogue with such a measured equivalent width: primary, on the path", ucd="meta.number"),
    Column("path_searched", "double", "Redshift path of primary sightlines, however noisy", ucd="src.redshift"),
    Column("path", "double", "That of it where W = ew_low reaches the detection threshold", ucd="src.redshift"),
    Column("n_effective", "double", "(Σw)² / Σw² of the weights: the number of equal absorbers that say as much", ucd="meta.number"),
)


def _estimate(name: str, what: str, unit: str = "") -> tuple[Column, ...]:
    """A rate with the ends of its Poisson interval and its error by jackknife."""
    return (
        Column(name, "double", what, unit),
        Column(f"{name}_lower", "double", "Lower end of its 68 % interval (Poisson)", unit, "stat.min"),
        Column(f"{name}_upper", "double", "Upper end of that interval", unit, "stat.max"),
        Column(
            f"{name}_jackknife",
            "double",
            "Its standard error by jackknife over regions of the sky; null for one region",
            unit,
            "stat.error",
        ),
    )


RATES = Table(
    "rates",
    "Absorbers per unit redshift and absorption distance above equivalent widths, by redshift; at the end over all bins together.",
    (
        *_ZONE,
        Column(
            "ew_low", "double", "The rest equivalent width of the first line above which absorbers count", "Angstrom", "spect.line.eqWidth"
        ),
        *_COUNTED,
        *_estimate("dndz", "dN/dz, corrected for completeness and for errors of W"),
        *_estimate("dndx", "dN/dX, the same per absorption distance"),
        Column("dndz_uncorrected", "double", "n_absorbers / path_searched"),
        Column("dndz_uncorrected_lower", "double", "Lower end of its 68 % interval (Poisson)", ucd="stat.min"),
        Column("dndz_uncorrected_upper", "double", "Upper end of that interval", ucd="stat.max"),
        Column("dndz_published", "double", "dN/dz that Zhu & Ménard (2013) expect on this path; null for other species than Mg II"),
        Column("dndx_published", "double", "dN/dX that they expect"),
    ),
)
EW_FUNCTION = Table(
    "ew_function",
    "f(W) = d²N/dzdW by redshift and equivalent width; at the end over all redshift bins together.",
    (
        *_ZONE,
        Column("ew_low", "double", "Least rest equivalent width of the first line", "Angstrom", "spect.line.eqWidth;stat.min"),
        Column("ew_high", "double", "Greatest rest equivalent width", "Angstrom", "spect.line.eqWidth;stat.max"),
        *_COUNTED,
        *_estimate("f", "d²N/dzdW, corrected for completeness and for errors of W", "1/Angstrom"),
        Column("f_uncorrected", "double", "n_absorbers / path_searched / width of the bin", "1/Angstrom"),
        Column("f_fit", "double", "Mean over the bin of the exponential that was fitted at these redshifts", "1/Angstrom"),
        Column("f_published", "double", "Mean that Zhu & Ménard (2013) expect; null for other species than Mg II", "1/Angstrom"),
    ),
)
EW_FIT = Table(
    "ew_fit",
    "The exponential N*/W* exp(-W/W*) fitted to f(W), by redshift; at the end over all bins together.",
    (
        *_ZONE,
        Column("ew_low", "double", "Least true equivalent width that it was fitted to", "Angstrom", "spect.line.eqWidth;stat.min"),
        Column("ew_high", "double", "Greatest one", "Angstrom", "spect.line.eqWidth;stat.max"),
        Column("n_fitted", "double", "Absorbers in that range: the sum of their probabilities", ucd="meta.number"),
        Column("n_star", "double", "N*; null where there are too few absorbers"),
        Column("n_star_err", "double", "Its standard error (Poisson)", ucd="stat.error"),
        Column("n_star_jackknife", "double", "Its standard error by jackknife over regions of the sky", ucd="stat.error"),
        Column("w_star", "double", "W*", "Angstrom"),
        Column("w_star_err", "double", "Its standard error (Poisson)", "Angstrom", "stat.error"),
        Column("w_star_jackknife", "double", "Its standard error by jackknife over regions of the sky", "Angstrom", "stat.error"),
    ),
)
G_OF_EW_Z = Table(
    "g_of_ew_z",
    "g(W, z): the number of sightlines in which an absorber of W at z would reach the detection threshold.",
    (
        *_ZONE,
        Column("ew", "double", "Rest equivalent width of the first line", "Angstrom", "spect.line.eqWidth"),
        Column(
            "n_sightlines", "double", "Primary sightlines; one that is searched in half of the bin is half a sightline", ucd="meta.number"
        ),
    ),
)


def randoms_table(species: LineSpecies) -> Table:
    """Declare the random absorbers of one species; columns that an absorber has too are called as there."""
    width = absorbers_table(species).select(f"ew_{species.primary.label}")[0]
    return Table(
        "randoms",
        "One row per random absorber: where one might have been found, as often as place, equivalent width and redshift make it likely.",
        (
            _SPECTRUM_ID,
            _OBJECT_ID,
            *_POSITION,
            _Z_QSO,
            Column("z_abs", "double", "Redshift drawn", ucd="src.redshift"),
            replace(width, description="True rest equivalent width drawn"),
            _SIGMA_EW,
        ),
    )


REJECTIONS = Table(
    "rejections",
    "One row per file or spectrum that is not in sightlines, with the stage and the reason.",
    (
        _PATH,
        _SPECTRUM_ID,
        PART,
        Column("stage", "string", "The stage that rejected it", ucd="meta.id"),
        Column("reason", "string", "Why: a short identifier", ucd="meta.code"),
        Column("detail", "string", "Why, in a sentence", ucd="meta.note"),
    ),
)

TRUTH = Table(
    "truth",
    "One row per absorber put into a simulated survey.",
    (
        _SPECTRUM_ID,
        *_IDS,
        *_POSITION,
        _Z_QSO,
        Column("species", "string", "Line species injected", ucd="meta.id"),
        *_INJECTED,
    ),
)


_EXAMPLE = (
    Column("example_id", "string", "Name of the example", ucd="meta.id;meta.main"),
    Column("quasar_id", "string", "The quasar it was made from: training, validation, calibration and test share none", ucd="meta.id"),
    PART,
    Column("split", "string", "train, validation, calibration or test", ucd="meta.code"),
    Column("label", "float", "1: an absorber of the species; 0: none", ucd="meta.code"),
    Column("draw", "double", "Uniform in [0, 1), a function of example_id: bootstrap draws choose negatives by it"),
    Column("kind", "string", "The interloper that the spectrum holds, or what people say it is; empty for none", ucd="meta.code"),
    _Z_QSO,
    Column("snr", "float", "Median signal-to-noise ratio per pixel in the search window", ucd="stat.snr"),
    Column("z_abs", "double", "Redshift of the nearest known absorber; null where there is none", ucd="src.redshift"),
    Column("ew_primary", "double", "Its rest equivalent width in the first line of the doublet", "Angstrom", "spect.line.eqWidth"),
)
TRAINING = Table(
    "training",
    "One row per candidate found in spectra whose absorbers are known: artificial ones, or real ones with labels.",
    (*_EXAMPLE, *CANDIDATES.select("significance", "image_residual", "image_inverse_error")),
)
TRAINING_SPECTRA = Table(
    "training_spectra",
    "One row per spectrum whose absorbers are known, as whole-spectrum networks see it.",
    (*_EXAMPLE, Column("flux", "pixels<f4>", "Rescaled flux in the search window, 0 outside and where masked")),
)
SCORES = Table(
    "scores",
    "One row per candidate: what the network says of it.",
    (
        CANDIDATES.columns[0],
        _SPECTRUM_ID,
        PART,
        Column("score", "float", "Calibrated probability that the candidate is an absorber of the species", ucd="stat.probability"),
    ),
)
EIGENSPECTRA = Table(
    "eigenspectra",
    "One row per bin of redshift: mean and eigenspectra of its quasars' rescaled continua; arrays of several rows lie row after row.",
    (
        PART,
        Column("z_bin", "int", "Number of the bin; bins begin at redshift 0", ucd="meta.number"),
        Column("z_low", "double", "Lower end of the bin", ucd="src.redshift;stat.min"),
        Column("z_high", "double", "Upper end of the bin", ucd="src.redshift;stat.max"),
        Column("first_pixel", "int", "Lattice index of the first pixel, where a quasar in the middle of the bin is observed"),
        Column("n_quasars", "int", "Quasars that were learned from", ucd="meta.number"),
        Column("n_held_out", "int", "Quasars that were kept aside to try the reconstruction on", ucd="meta.number"),
        Column("reconstruction_error", "double", "Of those: median of rms(continuum - reconstruction) / rms(continuum)", ucd="stat.error"),
        Column("mean", "pixels<f4>", "Mean continuum"),
        Column("components", "pixels<f4>", "Eigenspectra, as many rows as `variance` has values"),
        Column("variance", "pixels<f4>", "Variance of each coefficient", ucd="stat.variance"),
        Column("scatter", "pixels<f4>", "Standard deviation of what the eigenspectra leave; infinite where a pixel was not learned"),
        Column("coefficients", "pixels<f4>", "Coefficients of the quasars that were learned from, one row per quasar"),
    ),
)

CHANGES = Table(
    "changes",
    "One row per absorber that differs between two catalogues: gained, lost, moved (another redshift) or remeasured (other numbers).",
    (
        _SPECTRUM_ID,
        Column("change", "string", "gained, lost, moved or remeasured", ucd="meta.code"),
        Column("reason", "string", "Why: a short identifier", ucd="meta.code"),
        Column("detail", "string", "The rejection; empty for the others", ucd="meta.note"),
        *(
            Column(f"{name}_{side}", kind, f"{what} in the {when} catalogue; null where it has none", unit, ucd)
            for name, kind, what, unit, ucd in (
                ("absorber_id", "string", "Name of the absorber", "", "meta.id"),
                ("z", "double", "Absorption redshift", "", "src.redshift"),
                ("ew", "double", "Rest equivalent width of the first line of the doublet", "Angstrom", "spect.line.eqWidth"),
                ("score", "double", "Probability that it is an absorber", "", "stat.probability"),
            )
            for side, when in (("before", "earlier"), ("after", "later"))
        ),
    ),
)

#: What both stages of a selection say of a row.
SECOND_STAGE_COLUMNS = (
    Column("band", "string", "What the network's score decides: discard, reclassify or keep", ucd="meta.code"),
    Column("umap_x", "double", "UMAP embedding of the middle band; null outside it"),
    Column("umap_y", "double", "UMAP embedding of the middle band; null outside it"),
    Column("svm_margin", "double", "Signed distance from the boundary in the map, positive on the side of the real ones; null outside it"),
    Column("accepted", "bool", "Kept by its score, or accepted by the second-stage classifier", ucd="meta.code"),
)
