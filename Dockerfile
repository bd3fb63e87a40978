# The service and, as another command of the same image, its migrations: python -m service.migrate up
# Whoever builds for production pins the base by digest (python:3.13-slim@sha256:…): the tag moves with every release.
FROM python:3.13-slim

# Log lines leave at once; a buffer would be lost with the process that was killed.
ENV PYTHONUNBUFFERED=1
WORKDIR /app

# Before the code, so that a change of code reuses this layer. The file lists everything, with what each package needs
# in turn: --no-deps keeps out what nobody pinned.
COPY requirements.txt ./
RUN pip install --no-cache-dir --no-deps -r requirements.txt

# service/migrate looks for the migrations in ../sql.
COPY service/ service/
COPY sql/ sql/
# Compiled now, as it runs where nothing can be written; else every start would compile anew.
RUN python -m compileall -q service

# A number, because Kubernetes cannot tell from a name that it is not root. It needs no account and no home.
USER 10001:10001
EXPOSE 8080

# No shell in between: the process is PID 1 and handles SIGTERM itself.
# No HEALTHCHECK: the image has no curl, and the probes of k8s/deployment.yaml ask /health and /ready.
ENTRYPOINT ["python", "-m", "service"]
