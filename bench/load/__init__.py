"""The load test: `python -m bench.load`.

Coordinators die in masses, cycle after cycle, and are swept, while foreground clients read and
write all the time. README.md says what is measured and how to read it.
"""
