"""Fills the library: how many rows (sizing), which (catalogue, lending), how they are written (loading)."""
