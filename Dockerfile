# syntax=docker/dockerfile:1
# Two images from one file: `api` (no torch, a few hundred MB) and `worker` (PyTorch with its own CUDA libraries).
#   docker build --target api -t crosskd-api .
#   docker build --target worker -t crosskd-worker .
# The CUDA wheels need nothing of the host but the NVIDIA driver and its container toolkit.

FROM python:3.12-slim AS base
ENV PATH=/opt/crosskd/bin:$PATH

FROM base AS build
RUN python -m venv /opt/crosskd
WORKDIR /src
# Dependencies have a layer of their own, made from pyproject.toml alone: editing the source does not install them again.
COPY pyproject.toml README.md LICENSE ./

FROM build AS wheel
COPY api api
COPY worker worker
COPY crosskd crosskd
COPY client client
COPY wire wire
COPY migrations migrations
RUN --mount=type=cache,target=/root/.cache/pip python -m pip wheel --no-deps --wheel-dir /wheels .

FROM build AS build-api
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install '.[api]'
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-deps --force-reinstall /wheels/*.whl

FROM build AS build-worker
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install '.[worker]'
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-deps --force-reinstall /wheels/*.whl

FROM base AS runtime
# The user is a number without an entry in /etc/passwd; HOME and USER say what such an entry would.
ENV HOME=/var/lib/crosskd \
    USER=crosskd \
    CROSSKD_HOME=/var/lib/crosskd \
    PYTHONUNBUFFERED=1
# A named volume mounted here takes this folder's owner.
RUN install -d -o 10001 -g 10001 /var/lib/crosskd
WORKDIR /app

FROM runtime AS api
COPY --from=build-api /opt/crosskd /opt/crosskd
COPY alembic.ini ./
COPY migrations migrations
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["python", "-m", "uvicorn", "api.main:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000", "--timeout-keep-alive", "30"]

FROM runtime AS worker
# What the NVIDIA container toolkit puts in: CUDA itself, and nvidia-smi, by which a worker finds its devices.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-worker /opt/crosskd /opt/crosskd
USER 10001:10001
# The node's name is fixed up to the container's own, so that a container asks after its own worker and no other.
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 \
    CMD celery --app worker.app inspect ping --destination "worker@$HOSTNAME" --timeout 5
CMD ["python", "-m", "worker", "--hostname", "worker@%h"]
