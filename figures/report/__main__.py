"""`python -m figures.report`."""

import sys

if not __package__:
    sys.path[0] += "/../.."  # run by its path: `errors` says how to run it

from figures.report import main

main()
