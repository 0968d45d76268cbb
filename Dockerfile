# The image of deploy/jobset.yaml: docker build -t IMAGE . (GPUs: --build-arg EXTRA=cuda12; see docs/pods.md)
FROM python:3.11-slim
ARG EXTRA=tpu
WORKDIR /spatialsv-jax
COPY setup.py pyproject.toml ./
COPY spatialsv_jax spatialsv_jax
COPY data_pipelines data_pipelines
COPY experiments experiments
RUN pip install --no-cache-dir -e ".[${EXTRA}]"
