# The challenge's container on an NVIDIA GPU; from the root of the repository:
#   docker build -f docker/gpu.Dockerfile -t teamname:latest .
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# Where pip looks for packages, as pip's own variables of these names say; PyPI where they are not given.
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
COPY . /source
RUN sh /source/docker/install.sh '/source[gpu]' /opt/flare-lite

FROM ${BASE}
# The bundle, in the build context: copy yours to models/.
ARG MODEL=models/default
COPY --from=build /opt/flare-lite /opt/flare-lite
COPY ${MODEL} /workspace/model
COPY docker/predict.sh /workspace/predict.sh
# Places of what is mounted. Nothing is written but masks: /cache is none of the user's where nothing is mounted there.
RUN mkdir -p /workspace/inputs /workspace/outputs /cache
ENV PATH=/opt/flare-lite/bin:/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 XDG_CACHE_HOME=/cache
# CuPy cannot be imported without a folder to write to. NVIDIA's runtime reads the rest, and mounts that of the driver.
ENV CUPY_CACHE_DIR=/tmp/cupy NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /workspace
USER 1000:1000
CMD ["sh", "predict.sh"]
