"""`python -m figures.report`."""

from figures.report import main

main()
