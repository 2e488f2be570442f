"""What names an object in spectra and in catalogues: the columns by which a spectrum is known to a catalogue's row."""

from __future__ import annotations

import pandas as pd

PLATE_MJD_FIBER = ("plate", "mjd", "fiber")
#: Each names a spectrum, or an object, by itself; the first that a spectrum and a row share counts. SDSS's spectra; DESI's targets; of
#: SDSS-V a spectrum before its object, which other epochs share.
KEYS = (PLATE_MJD_FIBER, ("targetid",), ("mjd", "catalogid"), ("catalogid",))
#: All columns of the keys, and which of them have 64 bits: neither float64 nor text with an exponent holds those.
ID_COLUMNS = (*PLATE_MJD_FIBER, "targetid", "catalogid")
LONG_IDS = ("targetid", "catalogid")
#: What else names files of an archive, of which a crossmatch needs nothing: numbers, and words.
FILE_NUMBERS, FILE_WORDS = ("field",), ("survey", "program")


def match_by_id(rows: pd.DataFrame, spectra: pd.DataFrame) -> pd.DataFrame:
    """Join rows with ``spectrum_id`` of the spectra that share a key with them; both have the :data:`ID_COLUMNS`, -1 where not given.

    A row whose key names a spectrum is none of the other spectra of its object.
    """
    joined, left = [], rows
    for key in map(list, KEYS):
        known, named = left[(left[key] > 0).all(axis=1)], spectra[(spectra[key] > 0).all(axis=1)]
        found = known.reset_index().merge(named[["spectrum_id", *key]], on=key).set_index("index")
        joined.append(found)
        left = left.drop(index=found.index.unique())
    return pd.concat([frame for frame in joined if len(frame)] or joined[:1], ignore_index=True)
