"""`python -m cleanup_job`."""

from cleanup_job.cli import main

main()
