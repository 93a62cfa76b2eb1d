"""`/jobs/{id}/images`: the validation images with what was to be found, what the teacher found, and the student."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from api.http.file_response import FileResponse
from api.http.transactional import Transactional
from api.services.answers import image_files, images
from api.services.answers.images import Wanted
from api.services.answers.locate_images import ImagesDep
from api.services.files.conditional import select
from wire.images import MAX_PAGE, MAX_SIDE, MIN_SIDE, PAGE, THUMBNAIL, ImagePage, Order

router = APIRouter(prefix="/jobs/{job}/images", tags=["images"], route_class=Transactional)

LAST_ID = 2**63 - 1
SECONDS = 300  # that a browser need not ask again for an image: it changes with the data set, if ever
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "`If-None-Match` names what stands."}}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BYTES = {"content": dict.fromkeys(("application/octet-stream", *image_files.MEDIA_TYPES), _BINARY)}
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Content-Disposition": "inline",
}
ImageId = Annotated[int, Path(ge=-LAST_ID - 1, le=LAST_ID, description="The image's id in the annotation file.")]
JOB_ID = Query(min_length=1, max_length=200, pattern=r"^[^\x00]+$", description="Another job on the same images.")


@router.get("", response_model=ImagePage, responses=_NOT_MODIFIED)
async def list_images(
    job: str,
    request: Request,
    source: ImagesDep,
    order: Annotated[
        Order,
        Query(
            description="`f1_loss`: where the student lost most against the teacher first; `gain`: where it gained "
            "most over the job `against` first; `id`: by the image's id."
        ),
    ] = "f1_loss",
    against: Annotated[str | None, JOB_ID] = None,
    class_name: Annotated[
        str | None,
        Query(
            alias="class",
            max_length=200,
            description="Only images that have a box of this class or a detection of it; boxes and numbers are of it "
            "alone.",
        ),
    ] = None,
    step: Annotated[
        int | None,
        Query(ge=0, le=LAST_ID, description="The sample images of the evaluation at this step; default: all, best."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Images of one page.")] = PAGE,
    after: Annotated[
        int | None,
        Query(ge=-LAST_ID - 1, le=LAST_ID, description="The id of the last image of the page before this one."),
    ] = None,
) -> Response:
    """The validation images with their boxes: true, false and missed at IoU 0.5.

    Detections count from the score on at which F1 is highest over all of them. The first page of a job takes seconds,
    for the boxes are matched then; all others take milliseconds.
    """
    own, own_tag = await source.locate(job, step)
    other, other_tag = (None, "")
    if against is not None:
        other, other_tag = await source.locate(against, None)
    parts = (own_tag, other_tag, job, against, order, class_name, limit, after)
    headers = {"ETag": f'"{hashlib.sha256(repr(parts).encode()).hexdigest()}"', "Cache-Control": "private, no-cache"}
    if select("HEAD", request.headers, headers["ETag"], 0).status == 304:
        return Response(None, 304, headers)
    answer = await run_in_threadpool(images.page, own, other, Wanted(order, class_name, after, limit))
    return Response(answer.model_dump_json(), media_type="application/json", headers=headers)


@router.get(
    "/{image}",
    response_class=FileResponse,
    status_code=200,
    responses={
        200: {**_BYTES, "description": "The file as it lies on the disk."},
        206: {**_BYTES, "description": "The part that `Range` asks for."},
        **_NOT_MODIFIED,
    },
)
async def get_image(job: str, image: ImageId, request: Request, source: ImagesDep) -> Response:
    """A validation image, as it lies in the data: `Range` and `If-None-Match` are understood."""
    located, _ = await source.locate(job, None)
    found, _ = await source.open(located, image)
    try:
        part = select(request.method, request.headers, f'"{found.tag}"', found.size)
    except BaseException:
        found.file.close()
        raise
    headers = _SAFE | _caching(found.tag) | {"Accept-Ranges": "bytes"}
    if part.status != 304:
        headers["Content-Length"] = str(part.stop - part.start)
    if part.status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{found.size}"
    return FileResponse(found.file, part, headers, found.media_type)


@router.get(
    "/{image}/thumbnail",
    response_class=Response,
    responses={200: {**_BYTES, "description": "The picture, a JPEG."}, **_NOT_MODIFIED},
)
async def get_thumbnail(
    job: str,
    image: ImageId,
    request: Request,
    source: ImagesDep,
    size: Annotated[
        int, Query(ge=MIN_SIDE, le=MAX_SIDE, description="Pixels that the longer side may have.")
    ] = THUMBNAIL,
) -> Response:
    """A validation image as a small JPEG, oriented and converted as a training reads it: its boxes fit."""
    located, _ = await source.locate(job, None)
    thumbnail = await source.thumbnail(located, image, size)
    headers = _SAFE | _caching(thumbnail.tag)
    if select("HEAD", request.headers, headers["ETag"], 0).status == 304:
        thumbnail.close()
        return Response(None, 304, headers)
    return Response(await thumbnail.content(), media_type="image/jpeg", headers=headers)


def _caching(tag: str) -> dict[str, str]:
    return {"ETag": f'"{tag}"', "Cache-Control": f"private, max-age={SECONDS}"}
