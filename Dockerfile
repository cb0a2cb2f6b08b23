# Images of OgelBase. Targets: safekeeper, pageserver, compute; the last one, ogel, holds all three for platforms that build without a target.
# Stays in the subset that the legacy builder and BuildKit share, and that container platforms accept: no VOLUME, no cache mounts.
#   docker build --target pageserver -t ogelbase/pageserver .
ARG RUST_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=debian:bookworm-slim
# Where the programs come from: the stage `build` below, or an image that holds the same /out, made once for all targets (docs/docker.md).
ARG ARTIFACTS=build

FROM ${RUST_IMAGE} AS build
ENV OGEL_CACHE_DIR=/opt/ogel DEBIAN_FRONTEND=noninteractive CARGO_TARGET_DIR=/build/target
WORKDIR /build
COPY pgxn pgxn
RUN pgxn/pg build patched
COPY . .
RUN make build && docker/collect /out

FROM ${ARTIFACTS} AS artifacts

FROM ${BASE_IMAGE} AS base
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin ogel && install -d -o ogel -g ogel /data /objects
STOPSIGNAL SIGTERM

# The root of the storage images: what the two programs load, certificates, and one small tool box for health checks and a look inside.
FROM base AS storage-root
RUN apt-get update && apt-get install -y --no-install-recommends busybox-static && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=artifacts /out/bin/safekeeper /out/bin/pageserver /tmp/
COPY docker/storage-root /usr/local/bin/storage-root
RUN storage-root /rootfs /tmp/safekeeper /tmp/pageserver

FROM scratch AS storage
COPY --from=storage-root /rootfs /
COPY --from=storage-root --chown=10001:10001 /data /data
COPY --from=storage-root --chown=10001:10001 /objects /objects
STOPSIGNAL SIGTERM
USER 10001:10001

FROM storage AS safekeeper
COPY --from=artifacts /out/bin/safekeeper /usr/local/bin/
EXPOSE 5454 7676
ENTRYPOINT ["safekeeper", "--data-dir", "/data", "--listen-pg", "[::]:5454", "--listen-http", "[::]:7676"]

FROM storage AS pageserver
COPY --from=artifacts /out/bin/pageserver /usr/local/bin/
COPY --from=artifacts /out/template.tar.zst /usr/local/share/ogel/template.tar.zst
EXPOSE 6400 9898
ENTRYPOINT ["pageserver", "--data-dir", "/data", "--listen-pg", "[::]:6400", "--listen-http", "[::]:9898", "--template", "/usr/local/share/ogel/template.tar.zst"]

FROM base AS compute
RUN apt-get update && apt-get install -y --no-install-recommends busybox-static libicu72 libssl3 liblz4-1 libzstd1 libreadline8 libxml2 libuuid1 zlib1g \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=artifacts /out/bin/compute /out/bin/ogel /usr/local/bin/
COPY --from=artifacts /out/ext /usr/local/lib/ogel
COPY --from=artifacts /out/pgsql /opt/ogel/pgsql
# PostgreSQL was installed somewhere else when it was built, and the extension looks for its libpq.
RUN echo /opt/ogel/pgsql/lib > /etc/ld.so.conf.d/ogel.conf && ldconfig
COPY docker/compute-start /usr/local/bin/compute-start
ENV PATH=/usr/local/bin:/usr/bin:/bin:/opt/ogel/pgsql/bin
USER ogel
EXPOSE 55432 9090
ENTRYPOINT ["compute-start"]

FROM compute AS ogel
COPY --from=artifacts /out/bin/safekeeper /out/bin/pageserver /usr/local/bin/
COPY --from=artifacts /out/template.tar.zst /usr/local/share/ogel/template.tar.zst
ENTRYPOINT []
CMD ["ogel", "--help"]
