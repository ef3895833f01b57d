# The image that the manifests of `python -m cluster manifest` name, and that ray_cluster.yaml may name:
#
#   docker build -t REGISTRY/finetune-cnn:cpu .
#   docker build -t REGISTRY/finetune-cnn:gpu --build-arg HARDWARE=gpu .
#
# The base brings Python 3.11 and the version of Ray that requirements.lock names, and runs as the user `ray`.
ARG HARDWARE=cpu
FROM rayproject/ray:2.60.0-py311-${HARDWARE}

WORKDIR /home/ray/finetune-cnn
COPY --chown=ray:users requirements.lock .
RUN pip install --no-cache-dir -r requirements.lock
COPY --chown=ray:users . .

# Jobs, and replicas of services, import the three folders from here. Each shell reads the file that BASH_ENV names:
# the one that starts Ray takes the switches of Ray Serve from it, which are read when Ray starts.
ENV PYTHONPATH=/home/ray/finetune-cnn \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    BASH_ENV=/home/ray/finetune-cnn/.switches
RUN printf 'unset BASH_ENV\neval "$(python -m serving switches)"\n' > .switches
