# CPU:  docker build -t frontier-nas .
# CUDA: docker build -t frontier-nas --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 --build-arg TORCH=cu128 .
# Demo: docker run --rm --shm-size 2g --user 4321 --entrypoint python frontier-nas -m experiments.benchmarks.demo
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# The build of torch, as uv names it: cpu, cu128 and others; empty for the package index's own.
ARG TORCH=cpu

RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/nas && /opt/nas/bin/pip install --no-cache-dir uv
ENV PATH=/opt/nas/bin:$PATH

COPY pyproject.toml README.md LICENSE /app/
COPY nas /app/nas
COPY search_spaces /app/search_spaces
COPY experiments /app/experiments
RUN uv pip install --no-cache --python /opt/nas ${TORCH:+--torch-backend=${TORCH}} --editable /app

# Any user may work here, also one without a name: docker run --user "$(id -u):$(id -g)" -v "$PWD:/work" ...
WORKDIR /work
RUN chmod 1777 /work
ENV HOME=/work
ENTRYPOINT ["nas"]
CMD ["--help"]
