"""The resources of enrolment (docs/edge-protocol.md), for those who cannot sign yet."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedkit.aggregator.enrol import Enrolment
from fedkit.ca.texts import encode


def routes(enrolment: Enrolment) -> Sequence[Route]:
    """What may be asked of it."""

    async def ask(request: Request) -> Response:
        return _waits(await run_in_threadpool(enrolment.take, request.scope["fedkit.body"]))

    async def answer(request: Request) -> Response:
        name = str(request.path_params["name"])
        grant = await run_in_threadpool(enrolment.answer, name)
        return _waits(name) if grant is None else Response(grant.data(), media_type="application/json")

    async def succession(_request: Request) -> Response:
        return Response(await run_in_threadpool(enrolment.succession), media_type="application/json")

    return (
        Route("/v1/enrol", ask, methods=["POST"]),
        Route("/v1/enrol/next", succession, methods=["GET"]),
        Route("/v1/enrol/{name}", answer, methods=["GET"]),
    )


def _waits(name: str) -> Response:
    return Response(encode({"id": name}), 202, media_type="application/json")
