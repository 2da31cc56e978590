"""Exports: the files that upstream inference tools load."""
