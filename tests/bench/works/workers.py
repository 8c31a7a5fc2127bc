"""Throughput and p99 by the number of workers, from one to sixteen on two cores, against nginx with as many."""

from field import OURS
from load import hammer
from session import peer

NAME = "workers"
TITLE = "hello by the number of workers on two cores, 64 kept-alive connections"
POINTS = (1, 2, 4, 8, 16)
CONNECTIONS = 64


def run(session):
    field, cores = session.field, session.cores

    def made(recipe, name, workers):
        made = recipe(workers=workers)
        made.name = f"{name}@{workers}"
        return made

    recipes = [
        peer(name, lambda recipe=recipe, name=name, workers=workers: made(recipe, name, workers))
        for workers in POINTS for name, recipe in ((OURS, field.ours), ("nginx", field.nginx))
    ]
    result = session.contend(
        NAME, TITLE, recipes,
        lambda server: hammer(server, CONNECTIONS, min(session.seconds, 2), cores.pair_client, threads=len(cores.pair_client)),
        lambda found: f"{found['rate']:12,.0f}/s  p99 {found['p99_us'] / 1000:.2f} ms",
        rounds=session.sweeps, cores=cores.pair, warm=lambda server: hammer(server, CONNECTIONS, 1, cores.pair_client),
    )
    for workers in (POINTS[0], POINTS[-1]):
        session.remark(f"throughput with {workers} worker{'s' * (workers > 1)} / nginx with as many",
                       result.ratio(f"{OURS}@{workers}", f"nginx@{workers}", "rate"), " x")
