# One image for every role: SuperLink, site, coordinator and the demo's setup.
# The base image, which a release names with its digest: docs/deploy.md.
ARG BASE_IMAGE=python:3.11.13-slim-bookworm
FROM ${BASE_IMAGE}

# Id of the user who writes into folders of the host, as `id -u` prints it.
ARG APP_UID=1000
# The lock of deploy/lock. torch with CUDA runs with or without a GPU; with LOCK=cp311-cpu and torch's
# own CPU index as PIP_EXTRA_INDEX_URL the image is far smaller.
ARG LOCK=cp311-cuda
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

# Flower must be able to write to HOME, or a run does not end; the root file system is read-only
# where the image runs.
ENV HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1

# A volume that is mounted for the first time takes the owner of the folder that it covers.
RUN useradd --no-create-home --uid "${APP_UID}" app \
 && for name in setup superlink coordinator ge philips siemens; do \
        install -d -o app "/federation/${name}"; \
    done \
 && install -d -o app /state /runs /tls /keys /site /var/lib/rate-my-lora

WORKDIR /app
# The libraries come first, so that this layer is built again only when they change.
COPY deploy/lock deploy/lock
RUN pip install --no-cache-dir --require-hashes --requirement "deploy/lock/${LOCK}.txt"
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .
USER app
