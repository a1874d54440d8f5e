"""cleanup-job side by side with what people would use instead: `python -m bench`.

Every row is a whole command in a process of its own, run against a server that the bench
starts and ends itself, on data that is seeded anew before each run and checked on the server
after it. README.md has the suites, the targets and the rows.
"""
