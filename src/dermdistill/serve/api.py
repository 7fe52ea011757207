"""The routes: the app's files, and the model for those who want it behind HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from dermdistill.bundle import Bundle, Runtime
from dermdistill.serve.answers import BatchRequest, ErrorAnswer, Prediction, prediction
from dermdistill.serve.batcher import Batcher
from dermdistill.serve.decoders import Decoders
from dermdistill.serve.door import read_batch, read_body, unpack
from dermdistill.serve.guard import Guard
from dermdistill.serve.limits import Gate, Limits, RefusedError
from dermdistill.serve.metrics import Telemetry
from dermdistill.serve.pages import Pages

IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
BATCH_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}}},
    }
}
REFUSAL_SECONDS = 0.1  # before "too many" is answered
LINES = {"content": {"application/x-ndjson": {}}, "description": "a line of JSON an image"}


def _refused(*statuses: int) -> dict[int, dict[str, Any]]:
    """Refusals of a route, for the OpenAPI document."""
    return {status: {"model": ErrorAnswer} for status in statuses}


class Service:
    """One bundle's model behind its limits.

    Args:
        bundle: a verified bundle.
        runtime: one of its models.
        limits: bounds.
        telemetry: what is told.
        decoders: processes that decode images.
    """

    def __init__(self, bundle: Bundle, runtime: Runtime, limits: Limits, telemetry: Telemetry,
                 decoders: int = 2):  # fmt: skip
        self.bundle, self.limits, self.telemetry = bundle, limits, telemetry
        self.batcher = Batcher(runtime, limits.together, telemetry.batch)
        self.gate, self.batches = Gate(limits.waiting), Gate(limits.batches)
        self.decoders = Decoders(decoders, bundle.manifest.preprocessing, limits)
        telemetry.waiting.set_function(lambda: self.gate.inside)

    async def answer(self, body: bytes, with_map: bool) -> dict[str, Any]:
        """One image file's bytes -> a `Prediction`.

        Raises:
            RefusedError: as `Decoders.read`.
        """
        found = await self.batcher.ask(await self.decoders.read(body))
        return prediction(found, self.bundle.manifest, with_map)

    async def predict(self, request: Request, with_map: bool) -> Response:
        """One image in a body."""
        with self.gate.enter():
            body = await read_body(request, self.limits.body_bytes,
                                   self.limits.body_seconds)  # fmt: skip
            return JSONResponse(await self.answer(body, with_map))

    async def batch(self, request: Request, with_map: bool) -> Response:
        """Many images in a body; answers are sent as they come, in the order of the request."""
        gate = self.batches.enter()
        gate.__enter__()
        try:
            body = await read_body(request, self.limits.batch_bytes,
                                   self.limits.body_seconds)  # fmt: skip
            pairs = read_batch(body, self.limits)
        except BaseException as error:
            gate.__exit__(type(error), error, error.__traceback__)
            raise

        async def lines() -> AsyncIterator[bytes]:
            try:
                async for line in self._lines(pairs, with_map):
                    yield (json.dumps(line) + "\n").encode()
            finally:
                gate.__exit__(None, None, None)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def _lines(self, pairs: list[tuple[str, str]], with_map: bool) -> AsyncIterator[dict]:
        """One after the other, with a few in work ahead so that the model is asked for several."""
        running: list[asyncio.Task] = []
        rest = iter(pairs)
        try:
            for _ in pairs:
                while len(running) < self.limits.together and (pair := next(rest, None)):
                    running.append(asyncio.create_task(self._line(*pair, with_map)))
                yield await running.pop(0)
        finally:
            for task in running:
                task.cancel()

    async def _line(self, name: str, text: str, with_map: bool) -> dict[str, Any]:
        try:
            return {"id": name} | await self.answer(unpack(text, self.limits), with_map)
        except RefusedError as refusal:
            return {"id": name} | refusal.body

    def describe(self) -> dict[str, Any]:
        """What the bundle says about its model."""
        manifest = self.bundle.manifest
        return {
            "name": manifest.name, "digest": self.bundle.digest, "classes": manifest.classes,
            "preprocessing": asdict(manifest.preprocessing),
            "calibration": manifest.calibration and asdict(manifest.calibration),
            "abstention": manifest.abstention and asdict(manifest.abstention),
            "conformal": manifest.conformal and asdict(manifest.conformal),
            "ood": manifest.ood and asdict(manifest.ood),
            "notice": manifest.notice,
        }  # fmt: skip


def build_api(service: Service, files: Mapping[str, bytes], token: str | None = None,
              local: bool = True) -> Guard:  # fmt: skip
    """The whole server as an ASGI application.

    Args:
        service: the model.
        files: the app's, of `build_site`; may be empty.
        token: as Guard.
        local: as Guard.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        service.batcher.start()
        yield
        service.batcher.stop()
        service.decoders.close()
        service.telemetry.event("stopped")

    api = FastAPI(
        title="dermdistill", version="1", description=service.bundle.manifest.notice,
        docs_url=None, redoc_url=None, lifespan=lifespan,
    )  # fmt: skip
    _add_errors(api)
    _add_routes(api, service)
    pages = Pages(files)
    api.add_route("/{path:path}", pages.get, methods=["GET", "HEAD"], include_in_schema=False)
    return Guard(api, service.telemetry, token, local)


def _add_routes(api: FastAPI, service: Service) -> None:
    @api.post("/v1/predict", response_model=Prediction, openapi_extra=IMAGE_BODY,
              responses=_refused(400, 408, 413, 422, 429))  # fmt: skip
    async def predict(request: Request, map: bool = False) -> Response:
        """Ask about one image: the body is the file (JPEG, PNG, WebP, TIFF, BMP)."""
        return await service.predict(request, map)

    @api.post("/v1/batch", openapi_extra=BATCH_BODY, response_class=StreamingResponse,
              responses={200: LINES, **_refused(400, 408, 413, 422, 429)})  # fmt: skip
    async def batch(request: Request, map: bool = False) -> Response:
        """Ask about many images; a line of JSON for each, streamed in their order."""
        return await service.batch(request, map)

    @api.get("/v1/model")
    async def model() -> dict[str, Any]:
        """The model's classes, preprocessing and rules."""
        return service.describe()

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the server is up."""
        return {"status": "ok"}

    @api.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.telemetry.text(), media_type="text/plain; version=0.0.4")

    document = api.openapi

    def openapi() -> dict[str, Any]:
        """FastAPI's document, with the schema of a body that it does not read itself."""
        found = document()
        schema = BatchRequest.model_json_schema(ref_template="#/components/schemas/{model}")
        found["components"]["schemas"] |= schema.pop("$defs") | {"BatchRequest": schema}
        return found

    api.openapi = openapi


def _add_errors(api: FastAPI) -> None:
    """Every error in one form, none with the caller's own text."""

    @api.exception_handler(RefusedError)
    async def refused(_: Request, refusal: RefusedError) -> Response:
        headers = {"Retry-After": "1"} if refusal.status == 429 else None
        if headers:  # whoever asks again at once would keep the server busy with refusals
            await asyncio.sleep(REFUSAL_SECONDS)
        return JSONResponse(refusal.body, refusal.status, headers)

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        place = ".".join(str(part) for part in error.errors()[0]["loc"][:2])
        return JSONResponse(RefusedError(422, "bad_parameter", f"{place} is not valid").body, 422)

    @api.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        refusal = RefusedError(error.status_code, "http", str(error.detail))
        return JSONResponse(refusal.body, refusal.status, error.headers)
