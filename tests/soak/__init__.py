"""Runs with random faults against coordinators that beat, die and come back.

`python -m tests.soak --minutes 20 --seed 1 --log FILE`; not collected by pytest.
"""
