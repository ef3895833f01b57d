# Image for the manifests of `finetune-cnn manifest`; ray_cluster.yaml can use it too:
#
#   docker build -t REGISTRY/finetune-cnn:cpu .
#   docker build -t REGISTRY/finetune-cnn:gpu --build-arg HARDWARE=gpu .
#
# The base image has Python 3.11 and the version of Ray in requirements.lock, and runs as the user `ray`.
ARG HARDWARE=cpu
FROM rayproject/ray:2.60.0-py311-${HARDWARE}

WORKDIR /home/ray/finetune-cnn
COPY --chown=ray:users requirements.lock .
RUN pip install --no-cache-dir -r requirements.lock
# Only what .dockerignore lists.
COPY --chown=ray:users . .
RUN pip install --no-cache-dir --no-deps .

# Every shell reads the file in BASH_ENV; the shell that starts Ray gets the environment of Ray Serve from it, which is
# read when Ray starts.
ENV RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    BASH_ENV=/home/ray/finetune-cnn/.switches
RUN printf 'unset BASH_ENV\neval "$(python -m serving switches)"\n' > .switches
