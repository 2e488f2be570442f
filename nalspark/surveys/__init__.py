"""Files in, arrays out: readers, catalogues, crossmatch."""
