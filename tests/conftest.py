"""Settings of the whole suite: one thread for each worker, no windows, the same hypothesis examples in every CI run."""

import os

# Read when torch and NumPy are first imported, and inherited by the processes that tests start. Workers of pytest-xdist
# share the cores already.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["CONFFUSION_CACHE"] = ""  # nothing is kept in the home folder of whoever runs the tests

from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
