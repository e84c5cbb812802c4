# Nephila: agent, leader, command line and CNI shim in one image. `tools/image build` builds it without a daemon; docker and buildx do as well.
#
# bcc comes from Debian (PyPI's package of that name is something else), and so does Python, because bcc is built for it. Everything else is the
# locked set of requirements.lock, by hash. Each stage runs on the target platform, so that the shim and the wheels are the platform's.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS shim
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc musl-tools python3-minimal libpython3-stdlib \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY cni cni
RUN python3 -m cni.build /out

FROM ${BASE} AS packages
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3-setuptools python3-venv python3-wheel \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements.lock ./
RUN python3 -m venv --system-site-packages /opt/nephila \
 && /opt/nephila/bin/pip install --no-cache-dir --no-compile --no-deps --require-hashes -r requirements.lock
COPY . .
COPY docker/slim.sh /slim.sh
RUN /opt/nephila/bin/pip install --no-cache-dir --no-compile --no-deps --no-build-isolation . \
 && sh /slim.sh /opt/nephila

FROM ${BASE}
# xz-utils: where a host has no kernel headers, bcc unpacks the kernel's own archive of them.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libbpf1 python3 python3-bpfcc xz-utils \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/ldconfig /var/log/* /usr/share/doc /usr/share/man \
    /usr/share/bpfcc-tools /usr/share/locale /usr/share/zsh
COPY --from=packages /opt/nephila /opt/nephila
COPY --from=shim /out/nephila /opt/nephila/cni/nephila
ENV PATH=/opt/nephila/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title="Nephila" \
      org.opencontainers.image.description="IP address manager for Kubernetes pods on an underlay network" \
      org.opencontainers.image.licenses="Apache-2.0"
CMD ["nephila-agent", "--config", "/etc/nephila/agent.yaml"]
