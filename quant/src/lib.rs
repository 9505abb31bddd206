//! Numbers only: grids, rounding, packing, range estimators, histograms, weight quantizers
