"""The load test: `python -m bench.load`, and the last part of `python -m bench`.

Coordinators die in masses, cycle after cycle, and are swept, while foreground clients read and
write all the time. README.md says what is measured and how to read it.
"""


class LoadError(Exception):
    """It can't go on: what it works with failed."""
