"""Counts of faults survived: `scripts/reliability.py` is the program.

frame.py     what a part is, and how parts are found and run
page.py      results as JSON, and docs/reliability.md
parts/       one file for each part; a file with a `PART` is found
results/     the latest result of each part
"""
