"""`POST /jobs/{id}/predict`: images in, detections out, as JSON or as the picture with its boxes."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.database import DatabaseDep
from api.errors import BadRequest, InvalidSpec, NotAcceptable, PayloadTooLarge, RequestTimeout
from api.http.representations import JSON, negotiate
from api.http.transactional import Transactional
from api.predict.models import ModelCache
from api.predict.pool import Pool
from api.services.answers import predict as service
from api.services.answers.predict import Question, Upload
from api.settings import Settings
from api.storage import StorageDep
from api.stores.threads import FETCHING
from crosskd.spec.results.predictions import DEFAULT_SCORE, MAX_DETECTIONS, PICTURE_SCORE, Predictions

router = APIRouter(prefix="/jobs/{job}", tags=["predictions"], route_class=Transactional)

PNG = "image/png"
MULTIPART = "multipart/form-data"
NAME_CHARACTERS = 200
_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_IMAGES = {
    "schema": {
        "type": "object",
        "properties": {
            "image": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "The images."}
        },
        "required": ["image"],
    }
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "One image (JPEG, PNG, WEBP, BMP, TIFF, GIF or PPM) as the body, or several as the files of a "
        "form.",
        "content": {"application/octet-stream": _IMAGE, MULTIPART: _IMAGES},
    }
}


@router.post(
    "/predict",
    response_model=Predictions,
    responses={200: {"description": "What was found; or its picture.", "content": {PNG: _IMAGE}}},
    openapi_extra=_BODY,
)
async def predict(
    job: str,
    request: Request,
    database: DatabaseDep,
    storage: StorageDep,
    score: Annotated[
        float | None,
        Query(
            ge=0,
            le=1,
            description="The least score of a detection that is told. "
            f"Default: {DEFAULT_SCORE}; of a picture {PICTURE_SCORE}. The model's own threshold holds as well.",
        ),
    ] = None,
    most: Annotated[
        int, Query(alias="max", ge=1, le=MAX_DETECTIONS, description="Detections of an image that are told, the best.")
    ] = 100,
) -> Response:
    """What a job's best student finds in images. `Accept: image/png` gets the picture with boxes."""
    pool: Pool = request.app.state.predictions
    with pool.admitted():
        graph = await run_in_threadpool(service.find_graph, database, job)
        picture = negotiate(request.headers.get("accept", ""), (JSON, PNG)) == PNG
        images = await _images(request, request.app.state.settings)
        if picture and len(images) > 1:
            raise NotAcceptable(f"{len(images)} images have no one picture", remedy="Send one, or accept JSON.")
        models: ModelCache = request.app.state.models
        path = await FETCHING.run_if_soon(service.fetch_graph, models, storage, graph)
        least = score if score is not None else PICTURE_SCORE if picture else DEFAULT_SCORE
        question = Question(least, most, picture)
        found = await service.predict(pool, graph, path, images, question, request.is_disconnected)
    if picture:
        return Response(found.picture, media_type=PNG, headers={"X-Content-Type-Options": "nosniff"})
    return Response(found.predictions.model_dump_json(), media_type=JSON)


async def _images(request: Request, settings: Settings) -> list[Upload]:
    """The images of a request, in their order; their bytes together are bounded (`api/limits.py`)."""
    try:
        async with asyncio.timeout(settings.predict_seconds):
            return await _read(request, settings)
    except TimeoutError:
        raise RequestTimeout(
            f"the images have not come within {settings.predict_seconds:g} seconds",
            remedy="Send fewer, or smaller ones.",
        ) from None
    except ClientDisconnect:
        raise service.broke_off() from None


async def _read(request: Request, settings: Settings) -> list[Upload]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MULTIPART:
        content = await request.body()
        if not content:
            raise InvalidSpec(
                "the body is empty", remedy="Send an image as the body, or several as the files of a form."
            )
        return [Upload("", content)]
    most = settings.predict_images
    try:
        async with request.form(max_files=most, max_fields=most) as form:
            parts = form.multi_items()
            if any(not isinstance(part, UploadFile) for _, part in parts):
                remedy = "Send each image as a file: curl -F image=@street.jpg."
                raise InvalidSpec("a field of the form is no file", remedy=remedy)
            images = [
                Upload((part.filename or "")[:NAME_CHARACTERS], await part.read())
                for _, part in parts
                if isinstance(part, UploadFile)
            ]
    except HTTPException as error:
        if "Too many files" in str(error.detail):
            detail = f"more than {most} images in one request"
            raise PayloadTooLarge(detail, remedy="Send them in several requests.") from None
        raise _unreadable(str(error.detail)) from None
    except UnicodeError as error:  # of the charset that the request names
        raise _unreadable(str(error)) from None
    if not images:
        raise InvalidSpec("the form has no file", remedy="Send each image as a file: curl -F image=@street.jpg.")
    return images


def _unreadable(why: str) -> BadRequest:
    return BadRequest(f"the form cannot be read: {why}", remedy="Send it as multipart/form-data.")
