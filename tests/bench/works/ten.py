"""Ten workers on two cores: takes few and many connections; gives throughput against our own best number of workers and
p99 against nginx's with ten. Clients and servers share the two cores where there are no others."""

from field import OURS
from load import hammer
from session import peer

NAME = "ten"
TITLE = "ten workers on two cores"
CROWDS = (64, 512)
OTHERS, QUICK_OTHERS = (1, 2, 4), (2,)


def run(session):
    field, cores = session.field, session.cores
    others = QUICK_OTHERS if session.quick else OTHERS

    def ours(workers):
        return peer(OURS, lambda: field.ours(named(workers), workers=workers))

    recipes = [ours(workers) for workers in (10, *others)] + [peer("nginx", lambda: field.nginx(workers=10))]
    for crowd in CROWDS:
        result = session.contend(
            f"{NAME}-{crowd}", f"{TITLE}, {crowd} kept-alive connections", recipes,
            lambda server: hammer(server, crowd, session.seconds, cores.pair_client, threads=len(cores.pair_client)),
            lambda found: f"{found['rate']:12,.0f}/s  p99 {found['p99_us'] / 1000:.2f} ms",
            cores=cores.pair, warm=lambda server: hammer(server, crowd, 1, cores.pair_client),
        )
        best = max((10, *others), key=lambda workers: result.median(named(workers), "rate"))
        rate = result.ratio(named(10), named(best), "rate")
        session.expect(f"throughput of 10 workers / our best ({best}), c = {crowd}", rate, " x", ">=", 0.95)
        p99 = result.ratio(named(10), "nginx", "p99_us")
        session.expect(f"p99 of 10 workers / nginx with 10, c = {crowd}", p99, " x", "<=", 1.25)
        session.remark(f"throughput of 10 workers / nginx with 10, c = {crowd}",
                       result.ratio(named(10), "nginx", "rate"), " x")


def named(workers):
    return f"{OURS}, {workers} worker{'s' * (workers > 1)}"
