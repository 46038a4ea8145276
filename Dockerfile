# The gateway of tracelet-otel, with the clients of the trackers that it writes to:
#   docker build -t tracelet-otel-gateway:0.1.0 .
#   docker build --build-arg EXTRAS=gateway,wandb,clearml -t tracelet-otel-gateway:0.1.0 .
FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
RUN pip wheel --quiet --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ARG EXTRAS=gateway,mlflow
COPY constraints.txt /tmp/constraints.txt
COPY --from=build /wheels /wheels
RUN pip install --quiet --no-cache-dir --constraint /tmp/constraints.txt "$(echo /wheels/*.whl)[$EXTRAS]" \
    && rm -r /wheels /tmp/constraints.txt \
    && useradd --uid 10001 --home-dir /var/lib/tracelet --create-home tracelet
USER 10001:10001
# All that it keeps is below this folder, so that the rest may be read-only: spools, and what clients put into a home.
ENV HOME=/var/lib/tracelet \
    TRACELET_SPOOL_DIR=/var/lib/tracelet \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/tracelet
VOLUME /var/lib/tracelet
EXPOSE 4317 4318
STOPSIGNAL SIGTERM
# With TLS or without; whose certificate it is does not matter to the container itself.
HEALTHCHECK --interval=20s --timeout=5s --start-period=60s CMD ["python", "-c", "import ssl, urllib.request as u\ndef ok(scheme):\n  try: return u.urlopen(f'{scheme}://127.0.0.1:4318/healthz', timeout=4, context=ssl._create_unverified_context()).status == 200\n  except OSError: return False\nraise SystemExit(not (ok('https') or ok('http')))"]
ENTRYPOINT ["tracelet-otel", "gateway"]
# Beyond loopback it wants --token-file or --tls-client-ca: give them, and a certificate.
CMD ["--backends", "mlflow", "--grpc", "0.0.0.0:4317", "--http", "0.0.0.0:4318"]
