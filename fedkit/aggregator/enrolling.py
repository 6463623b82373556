"""The resources of enrolment (docs/edge-protocol.md), for those who cannot sign yet."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedkit.aggregator.enrol import Enrolment
from fedkit.aggregator.rates import Rates
from fedkit.aggregator.refusal import Refusal
from fedkit.ca.texts import encode

EACH, ALL = (20.0, 300.0), (400.0, 2000.0)
"""Requests for enrolment, lastingly in a second and at once: of an address, and of all together. A fleet may
come out of one address."""
_NETWORK = 64


class Patience:
    """Has addresses wait that ask too much, so that they do not keep others from enrolling."""

    def __init__(self) -> None:
        self._each, self._all = Rates(*EACH), Rates(*ALL)

    def demand(self, host: str) -> None:
        """Refusal 429 `rate`: too many requests from there, or from everywhere."""
        if wait := self._each.wait(neighbourhood(host)) or self._all.wait(""):
            after = {"Retry-After": str(math.ceil(wait))}
            raise Refusal(429, "rate", "too many requests for enrolment", after)


def neighbourhood(host: str) -> str:
    """An address; of IPv6 the network of 64 bits that it is in, all of which one party has."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    mapped = address.ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(address), _NETWORK), strict=False))


def routes(enrolment: Enrolment) -> Sequence[Route]:
    """What may be asked of it."""

    patience = Patience()

    def demand(request: Request) -> None:
        patience.demand(request.client.host if request.client is not None else "")

    async def ask(request: Request) -> Response:
        demand(request)
        return _waits(await run_in_threadpool(enrolment.take, request.scope["fedkit.body"]))

    async def answer(request: Request) -> Response:
        demand(request)
        name = str(request.path_params["name"])
        grant = await run_in_threadpool(enrolment.answer, name)
        return _waits(name) if grant is None else Response(grant.data(), media_type="application/json")

    async def succession(request: Request) -> Response:
        demand(request)
        return Response(await run_in_threadpool(enrolment.succession), media_type="application/json")

    return (
        Route("/v1/enrol", ask, methods=["POST"]),
        Route("/v1/enrol/next", succession, methods=["GET"]),
        Route("/v1/enrol/{name}", answer, methods=["GET"]),
    )


def _waits(name: str) -> Response:
    return Response(encode({"id": name}), 202, media_type="application/json")
