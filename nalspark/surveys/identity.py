"""What names an object in spectra and in catalogues: the columns by which a spectrum is known to a catalogue's row."""

from __future__ import annotations

import pandas as pd

PLATE_MJD_FIBER = ("plate", "mjd", "fiber")
#: Each names an object by itself: a spectrum of SDSS; a target of DESI; an object of SDSS-V's catalogues.
KEYS = (PLATE_MJD_FIBER, ("targetid",), ("catalogid",))
#: All columns of the keys, and which of them have 64 bits: neither float64 nor text with an exponent holds those.
ID_COLUMNS = (*PLATE_MJD_FIBER, "targetid", "catalogid")
LONG_IDS = ("targetid", "catalogid")
#: What else names files of an archive, of which a crossmatch needs nothing: numbers, and words.
FILE_NUMBERS, FILE_WORDS = ("field",), ("survey", "program")


def match_by_id(rows: pd.DataFrame, spectra: pd.DataFrame) -> pd.DataFrame:
    """Join rows with ``spectrum_id`` of the spectra that share a key with them; both have the :data:`ID_COLUMNS`, -1 where not given."""
    joined = []
    for key in map(list, KEYS):
        known, named = rows[(rows[key] > 0).all(axis=1)], spectra[(spectra[key] > 0).all(axis=1)]
        joined.append(known.merge(named[["spectrum_id", *key]], on=key))
    return pd.concat([frame for frame in joined if len(frame)] or joined[:1]).drop_duplicates(ignore_index=True)
