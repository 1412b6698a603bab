# One image for every role: SuperLink, site, coordinator and the demo's setup.
FROM python:3.11.13-slim-bookworm

# Id of the user who writes into folders of the host, as `id -u` prints it.
ARG APP_UID=1000
# Indexes that pip takes wheels from. The default torch brings CUDA and runs with or without a GPU;
# with torch's own CPU index as PIP_EXTRA_INDEX_URL the image is far smaller.
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
COPY pyproject.toml README.md LICENSE ./
COPY deploy/constraints.txt deploy/
RUN pip install --no-cache-dir --constraint deploy/constraints.txt --editable '.[onnx,tensorboard]'
COPY . .
RUN pip install --no-cache-dir --no-deps --editable .
USER app
