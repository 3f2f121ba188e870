"""Quirks of the published reference systems that change numbers, one file an algorithm, kept apart from the files that
read like the papers. Each is a module like those in `algorithms`, whose Options inherit the algorithm's and add
`--as_published` and the few quirks that a reported result isolates. It is used where one of these is asked for.
"""
