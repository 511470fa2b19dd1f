# The image that `buslab manifests` expects: `buslab`, `dask` and `locust` for pods, runs and generators. It runs as no root.
#
#   docker build -t buslab:0.1.0 .
#   docker build -t buslab:0.1.0 --build-arg BASE=registry.example/python:3.12 .
#
# BASE has Python >= 3.11 with its venv. Packages are those that requirements.lock pins.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
RUN sed -e '/^ *--hash/d' -e 's/ *\\$//' requirements.lock > constraints.txt && python3 -m venv /opt/buslab/venv
COPY sim sim
COPY locustfiles locustfiles
RUN /opt/buslab/venv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir --constraint constraints.txt ".[machines]" \
    && cp -r locustfiles /opt/buslab/locustfiles

FROM ${BASE}
COPY --from=build /opt/buslab /opt/buslab
RUN echo 'buslab:x:10001:10001::/tmp:/usr/sbin/nologin' >> /etc/passwd && echo 'buslab:x:10001:' >> /etc/group
ENV PATH=/opt/buslab/venv/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 3000
CMD ["buslab", "--help"]
