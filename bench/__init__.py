"""Measurements whose figures the documents quote. They are run by hand."""
