"""Fetching published data sets: what there is, and how it is resumed, checked and unpacked."""
