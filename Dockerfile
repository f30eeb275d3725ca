# Targets: service (the default: no torch, no training code) and training.
# A deployment pins its base image by digest: --build-arg PYTHON_IMAGE=python:3.11-slim@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1 PATH=/opt/onward/bin:$PATH
RUN groupadd --gid 10001 onward && useradd --uid 10001 --gid onward --no-create-home --home-dir /tmp onward \
 && install --directory --owner onward --group onward /bundles /keys /events /audit /work
WORKDIR /app

FROM base AS install
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/onward && python -m venv /opt/build
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
RUN /opt/build/bin/pip install --requirement requirements/build.lock

FROM install AS install-training
ARG TORCH_VERSION=2.13.0
ARG TORCH_BACKEND=cpu
RUN sh requirements/install-torch.sh /opt/onward/bin/python "$TORCH_VERSION" "$TORCH_BACKEND"
RUN pip install --requirement requirements/training.lock
COPY service service
COPY training training
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip install --no-deps /wheels/*.whl && rm /opt/onward/bin/onward-service

FROM install AS install-service
RUN pip install --requirement requirements/service.lock
COPY service service
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip install --no-deps /wheels/*.whl && python -m compileall -q /opt/onward/lib && rm /opt/onward/bin/onward-training \
 && python -c 'import onward.bundle.encoder.srgnn_kernel, onward.bundle.search.nearest_sessions_kernel'

FROM base AS training
COPY --from=install-training /opt/onward /opt/onward
ENV MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
ENTRYPOINT ["onward-training"]
CMD ["--help"]

FROM base AS service
COPY --from=install-service /opt/onward /opt/onward
ENV SERVICE_BUNDLES=/bundles SERVICE_HOST=0.0.0.0 SERVICE_PORT=8000
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"SERVICE_PORT\"]}/health/ready', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["onward-service"]
CMD ["serve"]
