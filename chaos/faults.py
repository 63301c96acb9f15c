"""What can be done to the service, as tables: signals, failpoints, the network, the servers."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import redis

from chaos.installation import API, SWEEP, TRAIN, VALIDATE, Installation
from chaos.proxy import Fault, Proxy
from domain.failpoints import FailPoint
from runtime.failpoints import Act

# Which process passes a point, by the first word of its name; any other is a train worker's.
ROLE_OF: Mapping[str, str] = {
    "submit": API, "ring": API, "validate": VALIDATE,
    "expire": SWEEP, "sweep": SWEEP, "delivery": SWEEP, "erasure": SWEEP,
}  # fmt: skip
# Of four rounds at a point, how many end in which act.
ACTS: Sequence[Act] = (Act.KILL, Act.STOP, Act.KILL, Act.RAISE, Act.KILL, Act.STOP, Act.KILL, Act.SLEEP)


def role_of(point: FailPoint) -> str:
    """The role whose processes pass a point."""
    return ROLE_OF.get(point.partition(".")[0], TRAIN)


@dataclass(frozen=True)
class Arm:
    """A point, and what shall happen there once."""

    point: FailPoint
    act: Act

    def setting(self, seconds: float) -> str:
        """As the setting `failpoints` says it."""
        lasting = f":{seconds:.2f}" if self.act is Act.SLEEP else ""
        return f"{self.point}={self.act}{lasting}*1"


def rounds(number: int, rng: random.Random) -> list[Arm]:
    """Every point so often, in an order of the seed's."""
    arms = [Arm(point, ACTS[place % len(ACTS)]) for point in FailPoint for place in range(number)]
    rng.shuffle(arms)
    return arms


Strike = Callable[[Installation, random.Random], float]


def _broken(way: Callable[[Installation], Proxy], fault: Callable[[random.Random], Fault], seconds: float) -> Strike:
    """Something wrong on the way to one server for up to so long."""

    def strike(installation: Installation, rng: random.Random) -> float:
        way(installation).break_(fault(rng))
        return rng.uniform(0.3, 1) * seconds

    return strike


def _cut(way: Callable[[Installation], Proxy]) -> Strike:
    def strike(installation: Installation, _rng: random.Random) -> float:
        way(installation).cut()
        return 0

    return strike


def _restart(server: str) -> Strike:
    def strike(installation: Installation, _rng: random.Random) -> float:
        installation.restart_server(server)
        return 1

    return strike


def _flush(installation: Installation, _rng: random.Random) -> float:
    with redis.Redis.from_url(installation.settings.broker_url.get_secret_value()) as broker:
        broker.flushall()
    return 0


def _database(installation: Installation) -> Proxy:
    return installation.network.database


def _broker(installation: Installation) -> Proxy:
    return installation.network.broker


def _storage(installation: Installation) -> Proxy:
    return installation.network.storage


SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

# Each returns for how long it lasts; then everything is healed.
STRIKES: Mapping[str, Strike] = {
    "database: connections cut": _cut(_database),
    "database: refuses": _broken(_database, lambda _: Fault(refuse=True), 3),
    "database: silent": _broken(_database, lambda _: Fault(hold=True), 3),
    "database: slow": _broken(_database, lambda rng: Fault(delay_s=rng.uniform(0.01, 0.1)), 3),
    "database: COMMIT's reply lost": _broken(_database, lambda _: Fault(lose_reply_to=b"COMMIT", times=3), 3),
    "database: SIGKILL and restart": _restart("postgres"),
    "broker: connections cut": _cut(_broker),
    "broker: refuses": _broken(_broker, lambda _: Fault(refuse=True), 3),
    "broker: silent": _broken(_broker, lambda _: Fault(hold=True), 3),
    "broker: FLUSHALL": _flush,
    "broker: SIGKILL and restart": _restart("valkey"),
    "storage: connections cut": _cut(_storage),
    "storage: refuses": _broken(_storage, lambda _: Fault(refuse=True), 3),
    "storage: silent": _broken(_storage, lambda _: Fault(hold=True), 3),
    "storage: 503 to a third": _broken(_storage, lambda _: Fault(answer=SLOW_DOWN, share=0.33), 4),
    "storage: cut while sending": _broken(_storage, lambda rng: Fault(limit_bytes=rng.randrange(1, 2000), times=3), 3),
    "storage: a byte changed": _broken(_storage, lambda rng: Fault(flip_after=rng.randrange(100, 900), times=3), 3),
    "storage: SIGKILL and restart": _restart("seaweedfs"),
}
