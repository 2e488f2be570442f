"""What a spectrum is: grids, batches, continua, rescaling. Numpy only."""
