"""The crossmatch on Spark frames: spectra × quasar catalogues × absorber catalogues -> targets and matches.

A catalogue is first grouped to *sightlines*: its rows with one identifier (plate-mjd-fiber, TARGETID or CATALOGID: see
:mod:`nalspark.surveys.identity`), or, where it has none, with one position. A spectrum knows a sightline by identifier, else as the nearest
on the sky within the radius. Of equals the smallest row wins, so the result
depends neither on the order nor on the partitioning of any frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from nalspark.errors import CatalogError
from nalspark.settings import Crossmatch, Settings
from nalspark.surveys.catalogs import Catalog, Kind, canonical_schema, write_parquet
from nalspark.surveys.crossmatch import sky
from nalspark.surveys.identity import ID_COLUMNS, KEYS
from nalspark.tables import table as tables
from nalspark.tables.arrow import Batches, map_batches
from nalspark.tables.schemas import MATCHES, SPECTRA, TARGETS
from nalspark.tables.store import Store

Named = Sequence[tuple[str, DataFrame]]

_SYSTEM = "struct<z_abs: double, ew_primary: double, row: bigint, strong: boolean>"
#: What a crossmatch needs of a spectrum: all but the pixels.
_METADATA = [column.name for column in SPECTRA.columns if not column.pixel_dtype and column.name != "first_pixel"]
#: Radii over which the positions of one object may be spread.
_CHAIN = 4
#: Stands for "no catalogue: a row to be matched".
_OURS = -1
#: Width of the cells of sky that tell where a catalogue without plates was searched, deg.
_CELL = 2
#: How a catalogue's footprint can be told but by a list of quasars, the usual way first.
FOOTPRINTS = ("plates", "sky", "everywhere")


# --- catalogues as frames ------------------------------------------------------------------------------------------------------------


def catalog_frame(spark: SparkSession, catalog: Catalog, folder: str | Path) -> DataFrame:
    """Give a catalogue as a frame; it is converted to Parquet first, unless it was before.

    Parameters
    ----------
    spark : SparkSession
    catalog : Catalog
        From :func:`nalspark.surveys.catalogs.open_catalog`.
    folder : path
        Of converted catalogues; all workers must see it.

    Returns
    -------
    DataFrame
        With the columns of :func:`nalspark.surveys.catalogs.canonical_schema`; null where the catalogue gives nothing.
    """
    path = write_parquet(catalog, folder)
    return Store.load(spark, _spark_schema(catalog.kind), path)


def _spark_schema(kind: Kind) -> T.StructType:
    types = {pa.int32(): T.IntegerType(), pa.int64(): T.LongType(), pa.float64(): T.DoubleType()}
    return T.StructType([T.StructField(field.name, types[field.type]) for field in canonical_schema(kind)])


# --- matching two frames -------------------------------------------------------------------------------------------------------------


def _keys() -> Column:
    """The keys that a row has: their number among all, and their values as text; none where it has no identifier."""
    written = [F.concat_ws("-", *[F.col(name).cast("string") for name in key]) for key in KEYS]
    complete = [" AND ".join(f"{name} IS NOT NULL" for name in key) for key in KEYS]
    numbered = [F.struct(F.lit(number).alias("kind"), text.alias("value")) for number, text in enumerate(written)]
    return F.array_compact(F.array(*[F.when(F.expr(known), key) for known, key in zip(complete, numbered, strict=True)]))


def match_by_id(left: DataFrame, right: DataFrame) -> DataFrame:
    """Match rows that share a key of :mod:`nalspark.surveys.identity`.

    Parameters
    ----------
    left : DataFrame
        ``left_id`` (unique) and the columns of the keys.
    right : DataFrame
        ``catalogue`` (int), ``row`` (long) and these columns. Each catalogue is matched by itself; of several of its rows with the same key
        the smallest is taken, and of several keys the first in their order.

    Returns
    -------
    DataFrame
        ``left_id``, ``catalogue``, ``right_row``, where there is a partner.
    """
    known = right.select("catalogue", "row", F.explode(_keys()).alias("key")).groupBy("key", "catalogue").agg(F.min("row").alias("row"))
    pairs = left.select("left_id", F.explode(_keys()).alias("key")).join(known, "key")
    best = F.min(F.struct("key.kind", "row"))["row"]
    return pairs.groupBy("left_id", "catalogue").agg(best.alias("right_row"))


def _whole(batches: Batches) -> pa.RecordBatch | None:
    """All rows of a partition in one batch, or None: batches come in hundreds of rows, which numpy is too fast for."""
    kept = list(batches)
    whole = pa.Table.from_batches(kept).combine_chunks().to_batches() if kept else []
    return whole[0] if whole else None


def _positions(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    return batch["ra"].to_numpy(zero_copy_only=False), batch["dec"].to_numpy(zero_copy_only=False)


def _put_in_buckets(batches: Batches, order: int) -> Batches:
    """Add the bucket of every row to be matched, and copies of every catalogue row for all the buckets that it may be needed in."""
    if (whole := _whole(batches)) is None:
        return
    pixels = sky.fine_pixels(*_positions(whole), order)
    catalogue = whole["right_row"].is_valid().to_numpy(zero_copy_only=False)
    ours, theirs = np.flatnonzero(~catalogue), np.flatnonzero(catalogue)
    copies, touched = sky.buckets_with_margin(pixels[theirs], order)
    chosen = whole.take(pa.array(np.concatenate([ours, theirs[copies]])))
    bucket = np.concatenate([sky.buckets(pixels[ours], order), touched])
    yield pa.RecordBatch.from_arrays([*chosen.columns, pa.array(bucket, pa.int32())], [*chosen.schema.names, "bucket"])


def _match_buckets(batches: Batches, radius_arcsec: float) -> Batches:
    """Match what is in one partition: whole buckets, so whatever is near a row is here too."""
    if (whole := _whole(batches)) is None:
        return
    ra, dec = _positions(whole)
    catalogue = whole["catalogue"].fill_null(_OURS).to_numpy()
    ours = np.flatnonzero(catalogue == _OURS)
    for number in np.unique(catalogue[catalogue != _OURS]):
        theirs = np.flatnonzero(catalogue == number)
        right_rows = whole["right_row"].take(pa.array(theirs)).to_numpy()
        rows, separations = sky.nearest((ra[ours], dec[ours]), (ra[theirs], dec[theirs]), right_rows, radius_arcsec)
        matched = np.flatnonzero(rows >= 0)
        left_ids = whole["left_id"].take(pa.array(ours[matched]))
        arrays = [left_ids, pa.array(np.full(len(matched), number, np.int32)), pa.array(rows[matched]), pa.array(separations[matched])]
        yield pa.RecordBatch.from_arrays(arrays, ["left_id", "catalogue", "right_row", "separation_arcsec"])


def _is_position() -> Column:
    """`sky.is_position` in Spark; NaN is greater than any number there."""
    return (F.col("ra") >= 0) & (F.col("ra") <= 360) & (F.abs("dec") <= 90)


def match_on_sky(left: DataFrame, right: DataFrame, radius_arcsec: float) -> DataFrame:
    """Find the nearest row within a radius, exactly as a search over the whole sky finds it.

    Every row of `left` goes to its HEALPix bucket, every row of `right` to all buckets within the radius of it, and each partition searches
    its buckets with a tree. Rows without a valid position match nothing; of equally near rows the smallest is taken.

    Parameters
    ----------
    left : DataFrame
        ``left_id`` (unique, of any type), ``ra``, ``dec`` (deg).
    right : DataFrame
        ``catalogue`` (int, ≥ 0), ``row`` (long), ``ra``, ``dec`` (deg). Each catalogue is matched by itself.
    radius_arcsec : float
        Largest separation, itself included.

    Returns
    -------
    DataFrame
        ``left_id``, ``catalogue``, ``right_row``, ``separation_arcsec``, where there is a partner.
    """
    left_type = left.schema["left_id"].dataType
    key: list[tuple[str, T.DataType]] = [("left_id", left_type), ("catalogue", T.IntegerType()), ("right_row", T.LongType())]
    ours = left.where(_is_position()).select("left_id", *[F.lit(None).cast(kind).alias(name) for name, kind in key[1:]], "ra", "dec")
    theirs = right.where(_is_position()).select(
        F.lit(None).cast(left_type).alias("left_id"), F.col("catalogue").cast("int"), F.col("row").alias("right_row"), "ra", "dec"
    )
    both = ours.unionByName(theirs)
    bucketed = T.StructType([*both.schema.fields, T.StructField("bucket", T.IntegerType())])
    matched = T.StructType([*[T.StructField(name, kind) for name, kind in key], T.StructField("separation_arcsec", T.DoubleType())])
    buckets = map_batches(both, partial(_put_in_buckets, order=sky.fine_order(radius_arcsec)), bucketed).repartition("bucket")
    return map_batches(buckets, partial(_match_buckets, radius_arcsec=radius_arcsec), matched)


def _pair_buckets(batches: Batches, radius_arcsec: float) -> Batches:
    """All pairs within the radius in one partition: whole buckets, each row to be matched in one of them."""
    if (whole := _whole(batches)) is None:
        return
    catalogue = whole["right_row"].is_valid().to_numpy(zero_copy_only=False)
    ours, theirs = np.flatnonzero(~catalogue), np.flatnonzero(catalogue)
    ra, dec = _positions(whole)
    left, right, separations = sky.pairs((ra[ours], dec[ours]), (ra[theirs], dec[theirs]), radius_arcsec)
    rows = whole["right_row"].take(pa.array(theirs[right])).to_numpy()
    _, first = np.unique(np.stack([left, rows], axis=1), axis=0, return_index=True)  # a row of the catalogue lies in several buckets
    names = whole["left_id"].take(pa.array(ours[left[first]]))
    yield pa.RecordBatch.from_arrays(
        [names, pa.array(rows[first]), pa.array(separations[first])], ["left_id", "right_row", "separation_arcsec"]
    )


def pairs_on_sky(left: DataFrame, right: DataFrame, radius_arcsec: float) -> DataFrame:
    """Find all pairs of rows within a radius, as :func:`match_on_sky` finds the nearest.

    Parameters
    ----------
    left : DataFrame
        ``left_id`` (str, unique), ``ra``, ``dec`` (deg).
    right : DataFrame
        ``row`` (long, unique), ``ra``, ``dec`` (deg).
    radius_arcsec : float
        Largest separation, itself included.

    Returns
    -------
    DataFrame
        ``left_id``, ``right_row``, ``separation_arcsec``.
    """
    ours = left.where(_is_position()).select("left_id", F.lit(None).cast("long").alias("right_row"), "ra", "dec")
    theirs = right.where(_is_position()).select(F.lit(None).cast("string").alias("left_id"), F.col("row").alias("right_row"), "ra", "dec")
    both = ours.unionByName(theirs)
    bucketed = T.StructType([*both.schema.fields, T.StructField("bucket", T.IntegerType())])
    buckets = map_batches(both, partial(_put_in_buckets, order=sky.fine_order(radius_arcsec)), bucketed).repartition("bucket")
    found = "left_id string, right_row long, separation_arcsec double"
    return map_batches(buckets, partial(_pair_buckets, radius_arcsec=radius_arcsec), found)


# --- which spectra are of one object -------------------------------------------------------------------------------------------------


def _with_margin(batches: Batches, order: int) -> Batches:
    """Add the bucket of every row, and copies of it for all the buckets that it may be needed in, which are not `own`."""
    if (whole := _whole(batches)) is None:
        return
    copies, touched = sky.buckets_with_margin(sky.fine_pixels(*_positions(whole), order), order)
    own = pa.array(np.arange(len(copies)) < whole.num_rows)
    yield pa.RecordBatch.from_arrays(
        [*whole.take(pa.array(copies)).columns, pa.array(touched, pa.int32()), own], [*whole.schema.names, "bucket", "own"]
    )


def _name_objects(batches: Batches, radius_arcsec: float) -> Batches:
    if (whole := _whole(batches)) is None:
        return
    bucket = whole["bucket"].to_numpy()
    order = np.argsort(bucket, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(bucket[order])) + 1):  # each for itself: partitions must not matter
        yield _objects_of_bucket(whole.take(pa.array(rows)), radius_arcsec)


def _objects_of_bucket(rows: pa.RecordBatch, radius_arcsec: float) -> pa.RecordBatch:
    ra, dec = _positions(rows)
    names = np.array(rows["spectrum_id"].to_pylist())
    first, size = sky.groups(ra, dec, names, radius_arcsec)
    order = np.lexsort((names, -np.nan_to_num(rows["snr"].to_numpy(zero_copy_only=False)), first))
    primary = np.zeros(len(names), dtype=bool)
    primary[order[np.flatnonzero(np.diff(first[order], prepend=-1))]] = True
    own = np.flatnonzero(rows["own"].to_numpy(zero_copy_only=False))
    columns = [pa.array(values, pa.string()) for values in (names[own], sky.designation(ra[first[own]], dec[first[own]]))]
    columns += [pa.array(size[own].astype(np.int32)), pa.array(primary[own])]
    return pa.RecordBatch.from_arrays(columns, ["spectrum_id", "object_id", "n_epochs", "primary"])


def objects(spectra: DataFrame, radius_arcsec: float) -> DataFrame:
    """Group spectra by position: epochs and programs of one object get one name, that of the position of the first by ``spectrum_id``.

    Parameters
    ----------
    spectra : DataFrame
        ``spectrum_id`` (unique), ``ra``, ``dec`` (deg), ``snr``.
    radius_arcsec : float

    Returns
    -------
    DataFrame
        ``spectrum_id``, ``object_id``, ``n_epochs``, the number of spectra that share it, and ``primary``, whether this is the one of the
        highest S/N, of equals the first; of those with a valid position.
    """
    placed = spectra.where(_is_position()).select("spectrum_id", "ra", "dec", "snr")
    bucketed = T.StructType([*placed.schema.fields, T.StructField("bucket", T.IntegerType()), T.StructField("own", T.BooleanType())])
    # A group is a chain: what is within several radii of a position must be in its bucket. A longer chain may be cut at a bucket's edge.
    order = sky.fine_order(_CHAIN * radius_arcsec)
    around = map_batches(placed, partial(_with_margin, order=order), bucketed).repartition("bucket")
    named = "spectrum_id string, object_id string, n_epochs int, primary boolean"
    return map_batches(around, partial(_name_objects, radius_arcsec=radius_arcsec), named)


# --- spectra and catalogues ----------------------------------------------------------------------------------------------------------


def _finite(name: str) -> Column:
    """Neither null nor NaN nor infinite; never null itself."""
    return F.coalesce(F.abs(name) < float("inf"), F.lit(False))


def _is_strong(significance: float) -> Column:
    """Whether both lines of a system reach so many times their errors."""

    def reaches(line: str) -> Column:
        width, error = f"ew_{line}", f"ew_{line}_err"
        return _finite(width) & _finite(error) & (F.col(error) > 0) & (F.col(width) >= significance * F.col(error))

    return reaches("primary") & reaches("secondary")


def _all_rows(quasars: Named, absorbers: Named, significance: float) -> DataFrame:
    """The rows of all catalogues, numbered in the order given, quasars first.

    ``z`` and ``z_err`` are null in absorber catalogues; ``system`` is null in quasar catalogues and where an absorber has no redshift.
    """
    system = F.struct("z_abs", "ew_primary", "row", _is_strong(significance).alias("strong"))
    nothing = [F.lit(None).cast("double").alias(name) for name in ("z", "z_err")]
    kinds = [(frame, [F.col("z"), F.col("z_err")], F.lit(None).cast(_SYSTEM)) for _, frame in quasars]
    kinds += [(frame, nothing, F.when(_finite("z_abs"), system).cast(_SYSTEM)) for _, frame in absorbers]
    numbered = [
        frame.select(F.lit(number).alias("catalogue"), "row", *ID_COLUMNS, "ra", "dec", *redshift, one.alias("system"))
        for number, (frame, redshift, one) in enumerate(kinds)
    ]
    return reduce(DataFrame.unionByName, numbered)


def _sightlines(rows: DataFrame, n_quasars: int) -> DataFrame:
    """Rows of one catalogue that are one quasar: the same identifiers, else the same position. ``row`` is the smallest of them.

    An absorber without a redshift is no system, so it matches nothing.
    """
    has_id = F.size(_keys()) > 0
    usable = rows.where((has_id | _is_position()) & ((F.col("catalogue") < n_quasars) | F.col("system").isNotNull()))
    same = [F.when(has_id, F.col(name)).alias(name) for name in ID_COLUMNS]
    same += [F.when(~has_id, F.col(name)).alias(f"key_{name}") for name in ("ra", "dec")]
    # A fill value is no redshift: the next row that has one gives it.
    redshift = F.min(F.when(_finite("z"), F.struct("row", "z", "z_err")))
    aggregates = {
        "row": F.min("row"),
        "n_rows": F.count(F.lit(1)),
        "place": F.min(F.when(_is_position(), F.struct("row", "ra", "dec"))),
        "z": redshift["z"],
        "z_err": redshift["z_err"],
        "systems": F.sort_array(F.collect_list("system")),
        "n_strong": F.sum(F.col("system.strong").cast("int")).cast("int"),
    }
    grouped = usable.groupBy("catalogue", *same).agg(*[aggregate.alias(name) for name, aggregate in aggregates.items()])
    return grouped.withColumns({"ra": F.col("place.ra"), "dec": F.col("place.dec")}).drop("key_ra", "key_dec", "place")


def _great_circle(ra: str, dec: str, other_ra: str, other_dec: str) -> Column:
    """Separation in arcsec by the haversine formula, accurate at small angles; null where a position is missing."""
    delta, other = F.radians(dec), F.radians(other_dec)
    half_ra, half_dec = F.radians(F.col(ra) - F.col(other_ra)) / 2, (delta - other) / 2
    haversine = F.pow(F.sin(half_dec), 2) + F.cos(delta) * F.cos(other) * F.pow(F.sin(half_ra), 2)
    root = F.sqrt(haversine)
    return F.degrees(2 * F.asin(F.when(root > 1, F.lit(1.0)).otherwise(root))) * 3600


def _hits(spectra: DataFrame, sightlines: DataFrame, radius_arcsec: float) -> DataFrame:
    """Every spectrum and catalogue that knows it: by id, else on the sky.

    Returns spectrum_id, part, catalogue, match, separation_arcsec, row, n_rows, ra, dec (the catalogue's), z, z_err, systems, n_strong.
    """
    # All that is asked of a spectrum later goes with it: to join it again would be to read it again.
    spectrum = F.struct("spectrum_id", "part", F.when(_is_position(), F.col("ra")).alias("ra"), "dec")
    left = spectra.select(spectrum.alias("left_id"), *ID_COLUMNS, "ra", "dec")
    by_id = match_by_id(left, sightlines).withColumns({"match": F.lit("id"), "separation_arcsec": F.lit(None).cast("double")})
    on_sky = match_on_sky(left, sightlines, radius_arcsec).withColumn("match", F.lit("sky"))
    both = (
        by_id.unionByName(on_sky)
        .groupBy("left_id", "catalogue")
        .agg(F.min(F.struct("match", "right_row", "separation_arcsec")).alias("hit"))
    )
    hits = both.select("left_id", "catalogue", "hit.match", F.col("hit.right_row").alias("row"), "hit.separation_arcsec")
    distance = F.coalesce("separation_arcsec", _great_circle("left_id.ra", "left_id.dec", "ra", "dec"))
    return (
        hits.join(sightlines.drop(*ID_COLUMNS), ["catalogue", "row"])
        .withColumns({"separation_arcsec": distance, "spectrum_id": F.col("left_id.spectrum_id"), "part": F.col("left_id.part")})
        .drop("left_id")
    )


def mark_duplicates(spectra: DataFrame) -> DataFrame:
    """Mark which row of every spectrum_id is kept: the first by path.

    Parameters
    ----------
    spectra : DataFrame
        The columns of `SPECTRA` that are not pixels (others are ignored).

    Returns
    -------
    DataFrame
        These columns and ``kept_path``: null for the row that is kept, the kept row's path for the others.
    """
    of_one = Window.partitionBy("spectrum_id").orderBy("path", *[name for name in _METADATA if name not in ("spectrum_id", "path")])
    ranked = spectra.select(*_METADATA, F.row_number().over(of_one).alias("rank"), F.first("path").over(of_one).alias("first_path"))
    return ranked.withColumn("kept_path", F.when(F.col("rank") > 1, F.col("first_path"))).drop("rank", "first_path")


# --- which spectra a catalogue covers ------------------------------------------------------------------------------------------------


def _cell() -> Column:
    """Name of the cell of sky that a position lies in; null without one. Cells are about as wide as high."""
    low = F.floor(F.col("dec") / _CELL) * _CELL
    along = F.floor(F.col("ra") * F.cos(F.radians(low + _CELL / 2)) / _CELL)
    return F.when(_is_position(), F.concat_ws(" ", F.lit("cell"), low.cast("string"), along.cast("string")))


def _plate() -> Column:
    """Name of the plate; null without one."""
    return F.when(F.col("plate").isNotNull(), F.concat(F.lit("plate "), F.col("plate").cast("string")))


def _list_of(name: Column | str) -> Column:
    """Name of the place that the list of a catalogue's searched quasars is."""
    return F.concat(F.lit("list of "), F.lit(name) if isinstance(name, str) else name)


def footprints(absorbers: Named, how: Mapping[str, str]) -> DataFrame | None:
    """Tell where absorber catalogues were searched: the places that occur in them, and their ranges of redshift.

    A plate, or a cell of sky, of which a catalogue lists any absorber was searched by its authors; one of which it lists none may not have
    been. Nothing is said of a quasar nearer or farther than all that it lists, or nearer than all its absorbers.

    Parameters
    ----------
    absorbers : sequence of (str, DataFrame)
        Names and frames of :func:`catalog_frame`.
    how : mapping
        Name → one of :data:`FOOTPRINTS`, or the path of a list of the quasars that were searched.

    Returns
    -------
    DataFrame
        ``covering``, the catalogue's name, ``place``, ``z_abs_min``, ``z_qso_min`` and ``z_qso_max``, the last two null where it has no
        redshifts of quasars; None without catalogues.
    """
    frames = []
    for name, frame in absorbers:
        rows = frame.where(_finite("z_abs"))
        kinds = {"plates": F.coalesce(_plate(), _cell()), "sky": _cell(), "everywhere": F.lit("everywhere")}
        places = rows.select(kinds.get(how.get(name, FOOTPRINTS[0]), _list_of(name)).alias("place")).where("place IS NOT NULL").distinct()
        z_qso = F.when(_finite("z_qso") & (F.col("z_qso") > 0), F.col("z_qso"))
        ranges = rows.agg(F.min("z_abs").alias("z_abs_min"), F.min(z_qso).alias("z_qso_min"), F.max(z_qso).alias("z_qso_max"))
        frames.append(places.crossJoin(F.broadcast(ranges)).withColumn("covering", F.lit(name)))
    return reduce(DataFrame.unionByName, frames) if frames else None


def _covered(known: DataFrame, lists: DataFrame, footprints: DataFrame) -> DataFrame:
    """The names of the catalogues that cover each spectrum: ``spectrum_id``, ``covering`` (a list).

    `lists` has ``spectrum_id`` and ``place`` of those that are in a list of searched quasars.
    """
    own = known.where(F.col("kept_path").isNull()).select("spectrum_id", "z_qso", "ra", "dec", "plate")
    anywhere = own.select("spectrum_id", "z_qso", F.explode(F.array(_plate(), _cell(), F.lit("everywhere"))).alias("place"))
    listed = lists.join(own.select("spectrum_id", "z_qso"), "spectrum_id")
    places = anywhere.unionByName(listed).join(F.broadcast(footprints), "place")
    inside = F.coalesce(F.col("z_qso").between(F.col("z_qso_min"), F.col("z_qso_max")), F.lit(True)) & (
        F.col("z_qso") >= F.col("z_abs_min")
    )
    return places.where(inside).groupBy("spectrum_id").agg(F.collect_set("covering").alias("covering"))


def _known(hits: DataFrame, n_quasars: int) -> DataFrame:
    """One row per spectrum that any catalogue knows: the quasar of the first that has its redshift, and what there is of absorbers."""
    is_quasar = F.col("catalogue") < n_quasars
    on_sky = F.when(F.col("match") == "sky", F.col("separation_arcsec"))
    renamed = {"z": "z_catalogue", "z_err": "z_catalogue_err", "match": "z_match", "ra": "catalogue_ra", "dec": "catalogue_dec"}
    quasar = F.struct("catalogue", *[F.col(old).alias(new) for old, new in renamed.items()], on_sky.alias("z_separation_arcsec"))
    return (
        hits.groupBy("spectrum_id")
        .agg(
            F.min(F.when(is_quasar & _finite("z"), quasar)).alias("quasar"),
            F.max(F.when(~is_quasar, F.col("n_strong"))).alias("most_strong"),
            F.sort_array(F.collect_list(F.when(~is_quasar, F.col("catalogue")))).alias("absorber_catalogues"),
        )
        .select("spectrum_id", "quasar.*", "most_strong", "absorber_catalogues")
        .withColumnRenamed("catalogue", "quasar_catalogue")
    )


def _shaped(frame: DataFrame, target: tables.Table) -> DataFrame:
    """Exactly the columns of a table, in its order and types."""
    return frame.select(*[F.col(column.name).cast(column.spark_type).alias(column.name) for column in target.columns])


def _check_names(*groups: Named) -> None:
    for group in groups:
        names = [name for name, _ in group]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise CatalogError(f"Two catalogues are called {', '.join(twice)}; results are told apart by these names, so rename one file.")


def _sentence(*pieces: Column | str) -> Column:
    """Literal text and columns in one string."""
    return F.concat(*[F.lit(piece) if isinstance(piece, str) else piece for piece in pieces])


def _verdict(settings: Crossmatch) -> tuple[Column, Column]:
    """Reason and detail of a rejection, null for a target. The catalogue's word on what is a quasar overrules the pipeline's class."""
    object_class = F.upper(F.trim(F.coalesce("object_class", F.lit(""))))
    shown_class = F.when(object_class == "", F.lit("empty")).otherwise(object_class)
    shown_warning = F.coalesce(F.col("z_warning").cast("string"), F.lit("missing"))
    shown_z = F.coalesce(F.col("z_qso").cast("string"), F.lit("missing"))
    warned = F.coalesce(F.col("z_warning").bitwiseAND(1) == 1, F.lit(False))
    unknown = F.col("z_source") == "pipeline"
    bad = ~_finite("z_qso") | (F.col("z_qso") < settings.z_min) | (F.col("z_qso") > settings.z_max)
    allowed = f"; expected {settings.z_min:g} to {settings.z_max:g}"
    duplicate = _sentence("the same spectrum is also in ", F.col("kept_path"), ", which is kept")
    sky_fiber = _sentence(
        "no quasar catalogue has its redshift, its class is ", shown_class, " and z_warning is ", shown_warning, ": a fiber on blank sky"
    )
    no_quasar = _sentence("no quasar catalogue has its redshift and the class from the pipeline is ", shown_class, "; expected QSO")
    no_redshift = F.lit(
        "no quasar catalogue has it, and neither its own file nor one of redshifts beside it has a redshift or a class: give a catalogue "
        "of its quasar with --quasars"
    )
    bad_z = _sentence("the redshift from ", F.col("z_source"), " is ", shown_z, allowed)
    cases = [
        (F.col("kept_path").isNotNull(), "duplicate_spectrum_id", duplicate),
        (unknown & (warned | (object_class == "SKY")), "sky_fiber", sky_fiber),
        (unknown & (object_class == "") & ~_finite("z_pipeline"), "no_redshift", no_redshift),
        (unknown & (object_class != "QSO"), "not_a_quasar", no_quasar),
        (bad, "bad_redshift", bad_z),
    ]
    reason, detail = F.lit(None).cast("string"), F.lit(None).cast("string")
    for condition, name, sentence in reversed(cases):
        reason, detail = F.when(condition, F.lit(name)).otherwise(reason), F.when(condition, sentence).otherwise(detail)
    return reason, detail


def _label(weak: str) -> Column:
    """1 where a catalogue has a strong system, and what the settings say where all systems are weak; where none has any, 0 if one covers
    the spectrum."""
    of_weak = F.lit(0 if weak == "negative" else None).cast("int")
    unlisted = F.when(F.size("covered") > 0, 0)
    return F.when(F.col("most_strong").isNull(), unlisted).when(F.col("most_strong") > 0, 1).otherwise(of_weak)


def _names(catalogues: Sequence[str]) -> Column:
    """Map from a catalogue's number to its name; with no catalogue, a map that no number is in."""
    numbered = list(enumerate(catalogues)) or [(-1, "")]
    return F.create_map(*[F.lit(piece) for pair in numbered for piece in pair])


def find_sightlines(spectra: DataFrame, quasars: Named, absorbers: Named, settings: Settings, searched: Named = ()) -> DataFrame:
    """Find the spectra that each catalogue knows: the costly part of the crossmatch, which its results share.

    Parameters
    ----------
    spectra : DataFrame
        From :func:`mark_duplicates`.
    quasars, absorbers : sequence of (str, DataFrame)
        Names and frames of :func:`catalog_frame`.
    settings : Settings
    searched : sequence of (str, DataFrame)
        Lists of quasars whose spectra were searched for an absorber catalogue: its name, and the frame of the list.

    Returns
    -------
    DataFrame
        What :func:`crossmatch` takes as `hits`. ``catalogue`` counts the catalogues: quasars, lists, absorbers.

    Raises
    ------
    CatalogError
        Where two catalogues of a kind have the same name.
    """
    _check_names(quasars, absorbers)
    if not quasars and not absorbers:
        quasars = [("none", spectra.sparkSession.createDataFrame([], _spark_schema("quasars")))]
    n_quasars = len(quasars) + len(searched)
    sightlines = _sightlines(_all_rows([*quasars, *searched], absorbers, settings.crossmatch.label_significance), n_quasars)
    return _hits(spectra.where(F.col("kept_path").isNull()), sightlines, settings.crossmatch.match_radius_arcsec)


def crossmatch(
    spectra: DataFrame,
    hits: DataFrame,
    quasars: Sequence[str],
    absorbers: Sequence[str],
    settings: Settings,
    *,
    searched: Sequence[str] = (),
    footprints: DataFrame | None = None,
) -> tuple[DataFrame, DataFrame]:
    """Tell of every spectrum whose it is, at which redshift, and what the catalogues know of it.

    Parameters
    ----------
    spectra : DataFrame
        From :func:`mark_duplicates`.
    hits : DataFrame
        From :func:`find_sightlines`.
    quasars, absorbers : sequence of str
        Names of the catalogues. The first quasar catalogue that has a redshift of a spectrum gives it, else the spectrum's own pipeline.
    settings : Settings
    searched : sequence of str
        Names of the absorber catalogues that have a list of searched quasars, as :func:`find_sightlines` had them.
    footprints : DataFrame, optional
        Of :func:`footprints`; without it a catalogue covers what it lists, and nothing else.

    Returns
    -------
    targets : DataFrame
        `TARGETS`: one row per row of `spectra`; those with a ``reason`` are rejected.
    matches : DataFrame
        `MATCHES`: one row per spectrum and catalogue that has it.
    """
    rules = settings.crossmatch
    n_quasars, first = len(quasars), len(quasars) + len(searched)
    names = _names([*quasars, *searched, *absorbers])
    is_list = (F.col("catalogue") >= n_quasars) & (F.col("catalogue") < first)
    lists, hits = hits.where(is_list).select("spectrum_id", _list_of(names[F.col("catalogue")]).alias("place")), hits.where(~is_list)
    known = spectra.join(_known(hits, n_quasars), "spectrum_id", "left")
    source = F.coalesce(names[F.col("quasar_catalogue")], F.lit("pipeline"))
    by_pipeline = F.col("quasar_catalogue").isNull()
    # The error of the redshift that is taken, never another's: a catalogue that states none has none.
    redshift = {f"z_qso{end}": F.when(by_pipeline, F.col(f"z_pipeline{end}")).otherwise(F.col(f"z_catalogue{end}")) for end in ("", "_err")}
    listed = F.sort_array(F.transform(F.coalesce("absorber_catalogues", F.array().cast("array<int>")), lambda number: names[number]))
    known = known.withColumns({"z_source": source, **redshift, "catalogues": listed})
    # Some files do not say where their objects are: then the quasar catalogue does.
    placed = _is_position() | F.col("catalogue_ra").isNull()
    known = known.withColumns({name: F.when(placed, F.col(name)).otherwise(F.col(f"catalogue_{name}")) for name in ("ra", "dec")})
    nothing = F.array().cast("array<string>")
    known = (
        known.withColumn("covering", nothing)
        if footprints is None
        else known.join(_covered(known, lists, footprints), "spectrum_id", "left")
    )
    known = known.withColumn("covered", F.array_sort(F.array_union("catalogues", F.coalesce("covering", nothing))))
    reason, detail = _verdict(rules)
    targets = _shaped(known.withColumns({"label": _label(rules.weak), "reason": reason, "detail": detail}), TARGETS)
    is_absorbers = F.col("catalogue") >= first
    of_systems = {"n_systems": F.size("systems")} | {name: F.col(f"systems.{name}") for name in ("z_abs", "ew_primary", "strong")}
    matches = hits.withColumns({name: F.when(is_absorbers, value) for name, value in of_systems.items()}).withColumns(
        {"kind": F.when(is_absorbers, "absorbers").otherwise("quasars"), "catalogue": names[F.col("catalogue")]}
    )
    return targets, _shaped(matches, MATCHES)


def match_counts(targets: DataFrame, matches: DataFrame, catalogues: Sequence[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """Count how much of each catalogue is among the spectra, and how many spectra are in it.

    Parameters
    ----------
    targets : DataFrame of TARGETS
        The rejected rows included: a spectrum that cannot be used is matched all the same.
    matches : DataFrame of MATCHES
    catalogues : sequence of (str, str, int)
        Kind, name and number of rows of each.

    Returns
    -------
    list of dict, one per catalogue in the order given
        ``kind``; ``catalogue``, its name; ``rows``; of these ``rows_matched``, whose sightline is that of a spectrum, and
        ``rows_unmatched``, those that cannot match included; ``spectra_by_id`` and ``spectra_on_sky``, found by plate, mjd and fiber and by
        position only; ``spectra_unmatched``, those that are not in it.
    """
    hits = [F.count_if(F.col("match") == how).alias(how) for how in ("id", "sky")]
    per_sightline = matches.groupBy("kind", "catalogue", "row").agg(F.first("n_rows").alias("n"), *hits)
    found = per_sightline.groupBy("kind", "catalogue").agg(*[F.sum(name).alias(name) for name in ("n", "id", "sky")])
    unique = targets.where(F.coalesce("reason", F.lit("")) != "duplicate_spectrum_id").agg(F.count("*").alias("n"))
    both = found.unionByName(unique, allowMissingColumns=True).collect()  # a handful of rows, and one query for all
    of = {(row["kind"], row["catalogue"]): row for row in both}
    n_spectra, counts = of[None, None]["n"], []
    for kind, name, n_rows in catalogues:
        row = of.get((kind, name))
        matched, by_id, on_sky = (row["n"], row["id"], row["sky"]) if row else (0, 0, 0)
        counts.append(
            {"kind": kind, "catalogue": name, "rows": n_rows, "rows_matched": matched, "rows_unmatched": n_rows - matched}
            | {"spectra_by_id": by_id, "spectra_on_sky": on_sky, "spectra_unmatched": n_spectra - by_id - on_sky}
        )
    return counts


def passed_over(targets: DataFrame, matches: DataFrame, quasars: Sequence[str]) -> dict[str, int]:
    """Count the spectra that a quasar catalogue has without a redshift, so that a later one of `quasars`, or the pipeline, gave it.

    Parameters
    ----------
    targets : DataFrame of TARGETS
    matches : DataFrame of MATCHES
    quasars : sequence of str
        Names of the quasar catalogues in their order.

    Returns
    -------
    dict of str to int
        Of those catalogues that have any.
    """
    order = F.create_map(*[F.lit(piece) for number, name in enumerate([*quasars, "pipeline"]) for piece in (name, number)])
    kept = targets.where(F.coalesce("reason", F.lit("")) != "duplicate_spectrum_id").select("spectrum_id", "z_source")
    earlier = order[F.col("catalogue")] < order[F.col("z_source")]
    hits = matches.where(F.col("kind") == "quasars").join(kept, "spectrum_id").where(earlier)
    return {row["catalogue"]: row["count"] for row in hits.groupBy("catalogue").count().collect()}
