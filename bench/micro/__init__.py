"""Parts of the hot path by themselves: `python -m pytest bench/micro`.

They call public functions only, on data in the order in which a walk finds it. `guard` is a
small bench of its own that needs a server: `python -m bench.micro.guard`.
"""
