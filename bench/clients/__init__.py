"""The commands that stand beside cleanup-job, each runnable: `python -m bench.clients.X`."""
