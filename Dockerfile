# Two images from one file: `api` (no torch, a few hundred MB) and `worker` (PyTorch with its own CUDA libraries).
#   docker build --target api -t crosskd-api .
#   docker build --target worker -t crosskd-worker .
# The CUDA wheels need nothing of the host but the NVIDIA driver and its container toolkit.
# What is installed is in deploy/lock, with versions and hashes (`make lock`); the base is named by its digest
# (`make pins`). The builder's own reader of this file is used: a `syntax` line would fetch another, of any version.

FROM python:3.12-slim@sha256:78387bc3881b8273120a12ebe6c1ab22b018ccc2c9adf565ae1ac9b536e184ea AS base
ENV PATH=/opt/crosskd/bin:$PATH

FROM base AS build
RUN python -m venv /opt/crosskd
WORKDIR /src

FROM build AS wheel
COPY deploy/lock/build.txt ./
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install --only-binary=:all: --require-hashes -r build.txt
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY worker worker
COPY crosskd crosskd
COPY client client
COPY report report
COPY wire wire
COPY migrations migrations
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# Dependencies have a layer of their own, made from the lock alone: editing the source does not install them again.
FROM build AS build-api
COPY deploy/lock/api.txt ./
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install --only-binary=:all: --require-hashes -r api.txt
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-deps --force-reinstall /wheels/*.whl

FROM build AS build-worker
COPY deploy/lock/worker.txt ./
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install --only-binary=:all: --require-hashes -r worker.txt
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
CMD ["python", "-m", "api", "--host", "0.0.0.0", "--port", "8000"]

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
