"""Real examples to learn from: labels of spectra and candidates from absorber catalogues and from people."""
