"""Exhaustive search of the lease and fence protocol over the production functions. `python -m sim.model`."""
