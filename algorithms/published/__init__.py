"""Variants of algorithms with the quirks of published reference systems that change numbers, one file per algorithm.

They are separate from the files that follow the papers. Each is a module like those in `algorithms`; its Options inherit the
algorithm's and add `--as_published` and the few quirks that a reported result isolates. The module is used if one of these
flags is set.
"""
