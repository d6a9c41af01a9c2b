# docker build -t datadiet .                                              on the processor
# docker build -t datadiet --build-arg BASE=pytorch/pytorch:latest .      with a base that has torch for CUDA
# docker run --rm -v "$PWD:/data" datadiet init mine.csv
ARG BASE=python:3.11-slim
FROM ${BASE}
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir '.[demo,compare,report]'
WORKDIR /data
ENTRYPOINT ["datadiet"]
