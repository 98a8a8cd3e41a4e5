"""Differentially private releases of counts, sums, means, ranges and vocabularies. Beam and OpenDP load on use."""
