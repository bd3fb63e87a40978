"""Measurements and proofs at size: commands that are run by hand, whose figures the documents quote."""
