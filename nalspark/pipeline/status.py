"""``nalspark status DIR``: what a result consists of, what the last runs did and what goes on, from its manifest and without Spark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nalspark.errors import StoreError
from nalspark.pipeline.catalogue import ALL_STAGES
from nalspark.tables.manifest import Manifest
from nalspark.tables.store import Store
from nalspark.tables.versions import versions

_UNITS = ("B", "kB", "MB", "GB", "TB")
_HEADING = (
    f"{'stage':<12} {'last work began':<25} {'parts':>12} {'rows in':>10} {'rows out':>10} {'rejected':>9} {'time':>10} {'spectra':>8} "
    f"{'written':>9}"
)


def size(n_bytes: float) -> str:
    """``3.2 GB``."""
    power = 0
    while n_bytes >= 1000 and power < len(_UNITS) - 1:
        n_bytes, power = n_bytes / 1000, power + 1
    return f"{n_bytes:.1f} {_UNITS[power]}" if power else f"{n_bytes:.0f} B"


def last_work(manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    """Stage → the summary of the last run in which it had something to do, in the order of that work."""
    found: dict[str, Mapping[str, Any]] = {}
    for run in manifest.runs:
        for stage, summary in run.items():
            if summary["parts_done"]:
                found.pop(stage, None)
                found[stage] = summary
    return found


def _row(stage: str, summary: Mapping[str, Any]) -> str:
    # A result of an earlier version lacks some of these.
    rows_in, spectra, written, began = (summary.get(name, 0) for name in ("rows_in", "spectra", "bytes", "started"))
    seconds = summary["seconds"]
    rate = f"{spectra / seconds:.0f}/s" if spectra and seconds else ""
    parts = f"{summary['parts_done']} of {summary['parts']}"
    numbers = f"{rows_in:>10} {summary['rows']:>10} {summary['rejected']:>9} {seconds:>8.1f} s {rate:>8} {size(written):>9}"
    return f"{stage:<12} {began or '':<25} {parts:>12} {numbers}"


def _published(manifest: Manifest) -> str:
    tables = {name.removesuffix(".parquet"): rows for name, rows in manifest.published.items() if name.endswith(".parquet")}
    return ", ".join(f"{rows} {name.replace('_', ' ')}" for name, rows in tables.items())


def status(folder: str) -> Iterator[str]:
    """Lines about a result directory.

    Raises
    ------
    StoreError
        Where it is no result, or its manifest is damaged.
    """
    store = Store(folder)
    holder = store.holder()
    if not store.manifest_path.is_file() and not holder:
        raise StoreError(f"{store.root} is no result of nalspark: it has no manifest.json. Name the --out of `nalspark find`.")
    manifest = store.manifest()
    yield f"{store.root}, nalspark {manifest.version or 'has not finished a stage here'}"
    yield f"in use by {holder}" if holder else "nobody writes here now"
    if manifest.parts("published"):
        yield f"published    version {manifest.publication}, {manifest.published_on}: {_published(manifest)}"
    elif manifest.published:
        yield "published    nothing whole: the last publication was cut short; run it again"
    for number, path in versions(store).items():
        kept = Store(path).manifest()
        yield f"kept         version {number}, {kept.published_on}: {_published(kept)}"
    yield ""
    yield _HEADING
    order = {name: number for number, name in enumerate(ALL_STAGES)}  # of stages that began in the same second
    for stage, summary in sorted(last_work(manifest).items(), key=lambda item: (item[1].get("started", ""), order.get(item[0], 0))):
        yield _row(stage, summary)
