# Images of OgelBase. Targets: safekeeper, pageserver, compute; the last one, ogel, holds all three for platforms that build without a target.
# Stays in the subset that the legacy builder and BuildKit share, and that container platforms accept: no VOLUME, no cache mounts.
ARG RUST_IMAGE=rust:1.95-bookworm
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${RUST_IMAGE} AS build
ENV OGEL_CACHE_DIR=/opt/ogel DEBIAN_FRONTEND=noninteractive CARGO_TARGET_DIR=/build/target
WORKDIR /build
COPY pgxn pgxn
RUN pgxn/pg build patched
COPY . .
RUN make build && mkdir -p /out/bin /out/ext \
    && cp target/release/safekeeper target/release/pageserver target/release/compute target/release/ogel /out/bin/ \
    && cp target/release/ext/ogel.so /out/ext/ \
    && cp -r "$(pgxn/pg prefix patched)" /out/pgsql && rm -rf /out/pgsql/suites /out/pgsql/include \
    && cp "$(pgxn/pg template)" /out/template.tar.zst

FROM ${BASE_IMAGE} AS base
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin ogel && install -d -o ogel -g ogel /data
STOPSIGNAL SIGTERM

FROM base AS safekeeper
COPY --from=build /out/bin/safekeeper /usr/local/bin/
USER ogel
EXPOSE 5454 7676
ENTRYPOINT ["safekeeper", "--data-dir", "/data", "--listen-pg", "[::]:5454", "--listen-http", "[::]:7676"]

FROM base AS pageserver
COPY --from=build /out/bin/pageserver /usr/local/bin/
COPY --from=build /out/template.tar.zst /usr/local/share/ogel/template.tar.zst
USER ogel
EXPOSE 6400 9898
ENTRYPOINT ["pageserver", "--data-dir", "/data", "--listen-pg", "[::]:6400", "--listen-http", "[::]:9898", "--template", "/usr/local/share/ogel/template.tar.zst"]

FROM base AS compute
RUN apt-get update && apt-get install -y --no-install-recommends libicu72 libssl3 liblz4-1 libzstd1 libreadline8 libxml2 libuuid1 zlib1g \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/bin/compute /out/bin/ogel /usr/local/bin/
COPY --from=build /out/ext /usr/local/lib/ogel
COPY --from=build /out/pgsql /opt/ogel/pgsql
COPY docker/compute-start /usr/local/bin/compute-start
USER ogel
EXPOSE 55432 9090
ENTRYPOINT ["compute-start"]

FROM compute AS ogel
COPY --from=build /out/bin/safekeeper /out/bin/pageserver /usr/local/bin/
COPY --from=build /out/template.tar.zst /usr/local/share/ogel/template.tar.zst
ENTRYPOINT []
CMD ["ogel", "--help"]
