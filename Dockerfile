# One image for every role: SuperLink, site, coordinator and the demo's setup.
FROM python:3.11.13-slim-bookworm

# Whoever writes into folders of the host: id -u
ARG APP_UID=1000
# Where pip takes wheels from is the builder's choice. PyPI's torch brings CUDA and runs with or
# without a GPU; torch's own CPU index, as PIP_EXTRA_INDEX_URL, makes the image far smaller.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

# The root file system is read-only where the image runs, and a run does not end without a HOME
# that Flower can write to.
ENV HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1

# A volume that is mounted for the first time takes the owner of the folder in its place.
RUN useradd --no-create-home --uid "${APP_UID}" app \
 && for name in setup superlink coordinator ge philips siemens; do \
        install -d -o app "/federation/${name}"; \
    done \
 && install -d -o app /state /runs /tls /keys /site /var/lib/rate-my-lora

WORKDIR /app
# The libraries first: they stay as they are when only our code changes.
COPY pyproject.toml README.md LICENSE ./
COPY deploy/constraints.txt deploy/
RUN pip install --no-cache-dir --constraint deploy/constraints.txt --editable '.[onnx,tensorboard]'
COPY . .
RUN pip install --no-cache-dir --no-deps --editable .
USER app
