# The image of every role: one binary, not run as root.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin mandate && cp target/release/mandate /mandate

FROM debian:bookworm-slim
COPY --from=build /mandate /usr/local/bin/mandate
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/mandate"]
