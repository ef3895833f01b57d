# Image for the manifests of `finetune-cnn manifest`; ray_cluster.yaml can use it too:
#
#   docker build -t REGISTRY/finetune-cnn:cpu .
#   docker build -t REGISTRY/finetune-cnn:gpu --build-arg HARDWARE=gpu .
#
# torch from PyPI is built for CUDA 13.0, which needs driver 580 or newer on the nodes. For an older driver, or without
# CUDA, add --build-arg TORCH_INDEX=URL: the index of another build of torch, from PyTorch's installation page.
#
# The base image has Python 3.11 and the version of Ray in requirements.lock, and runs as the user `ray`.
ARG HARDWARE=cpu
FROM rayproject/ray:2.60.0-py311-${HARDWARE}

WORKDIR /home/ray/finetune-cnn
COPY --chown=ray:users requirements.lock .
ARG TORCH_INDEX
RUN pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r requirements.lock
# Only what .dockerignore lists.
COPY --chown=ray:users . .
RUN pip install --no-cache-dir --no-deps .
# For the processor of this machine; nodes with another one compile again, when the code is first used.
RUN finetune-cnn compile || true

# Every shell reads the file in BASH_ENV; the shell that starts Ray gets the environment of Ray Serve from it, which is
# read when Ray starts.
ENV RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    BASH_ENV=/home/ray/finetune-cnn/.switches
RUN printf 'unset BASH_ENV\neval "$(python -m serving switches)"\n' > .switches
