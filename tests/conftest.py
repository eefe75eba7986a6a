"""What every test shares: one hypothesis profile, so that a run is the same on every machine.

Property tests are derandomised: their examples follow from the test's own source, so a red test is
red for everybody. `RPK_PY_HYPOTHESIS=explore` searches with fresh randomness and more examples;
what it finds is added to the test as an `@example`.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "fixed",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore",
    deadline=None,
    max_examples=2_000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("RPK_PY_HYPOTHESIS", "fixed"))
