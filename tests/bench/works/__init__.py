"""What is measured: each work has a NAME, a TITLE and `run(session)`, which leaves results and figures in the session."""

from works import balance, bulk, cache, churn, connections, hello, lifecycle, mixed, path, ten, workers

ALL = [hello, path, churn, ten, cache, bulk, mixed, balance, lifecycle, connections, workers]
