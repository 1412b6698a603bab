# One image for every role: SuperLink, SuperNode, the run and the setup.
FROM python:3.11-slim-bookworm
# Which wheels pip takes is the builder's choice; torch's CPU or CUDA index comes in as
# --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL=
RUN useradd --create-home --uid 10001 app
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY common common
COPY strategies strategies
COPY client_app client_app
COPY server_app server_app
COPY cli cli
COPY configs configs
RUN pip install --no-cache-dir --editable . && mkdir /state && chown app /state
USER app
