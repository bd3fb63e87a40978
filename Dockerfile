# The service and, as another command of the same image, its migrations: python -m service.migrate up
# For production, pin the base image by digest (python:3.13-slim@sha256:…), because the tag moves with every release.
FROM python:3.13-slim

# Write log lines at once: lines in a buffer are lost if the process is killed.
ENV PYTHONUNBUFFERED=1
WORKDIR /app

# Before the code, so that a change of the code reuses this layer. The file lists all packages and their dependencies;
# --no-deps keeps out packages that are not pinned there.
COPY requirements.txt ./
RUN pip install --no-cache-dir --no-deps -r requirements.txt

# service/migrate reads the migrations from ../sql.
COPY service/ service/
COPY sql/ sql/
# Compile now, because the process cannot write to /app: otherwise each start would compile again.
RUN python -m compileall -q service

# A number, because Kubernetes cannot check that a user name is not root. It needs no account and no home directory.
USER 10001:10001
EXPOSE 8080

# Without a shell, so that the process is PID 1 and handles SIGTERM itself. It then drains for DRAIN_SECONDS. Docker kills
# after 10 s, and an image cannot change that: docker run --stop-timeout 45, or docker stop -t 45.
# No HEALTHCHECK: the image has no curl, and the probes of k8s/deployment.yaml use /health and /ready.
ENTRYPOINT ["python", "-m", "service"]
