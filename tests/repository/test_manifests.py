"""k8s/ and the Dockerfile agree with each other and with the service. Needs no cluster and no image."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from service import config, server
from service.http import app
from tests.support import waiting

ROOT = Path(__file__).parents[2]
# The files that `kubectl apply -f k8s/` reads. The example of the Secrets must not be one of them; it is checked too.
APPLIED_FILES = sorted(path for path in (ROOT / "k8s").iterdir() if path.suffix in {".yaml", ".yml", ".json"})
SECRET_EXAMPLE = ROOT / "k8s/secret.yaml.example"


def read(*paths: Path) -> list[dict[str, Any]]:
    return [part for path in paths for part in yaml.safe_load_all(path.read_text())]


MANIFESTS = read(*APPLIED_FILES, SECRET_EXAMPLE)
BY_NAME = {(part["kind"], part["metadata"]["name"]): part for part in MANIFESTS}
SERVICE_POD = BY_NAME["Deployment", "ledger"]["spec"]["template"]
MIGRATE_POD = BY_NAME["Job", "ledger-migrate"]["spec"]["template"]
[SERVICE] = SERVICE_POD["spec"]["containers"]
[MIGRATE] = MIGRATE_POD["spec"]["containers"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COPIED = dict(re.findall(r"^COPY (\S+) (\S+)$", DOCKERFILE, re.MULTILINE))
VALID_SECRET = {
    "DATABASE_URL": "postgresql://ledger_service:secret@db:5432/ledger",
    "CALLERS": json.dumps([{"name": "checkout", "scopes": ["write"], "token_sha256": ["0" * 64]}]),
}


class RecordingEnvironment(dict[str, str]):
    """An empty environment that records the names of the variables that are read."""

    def get(self, name: str, default: Any = None) -> Any:
        return self.setdefault(name, "") or default


def environment(container: dict[str, Any]) -> dict[str, str]:
    """The variables of the container, with the example Secrets. KeyError if a reference has no target."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        variables |= BY_NAME["ConfigMap", source["configMapRef"]["name"]]["data"]
    for variable in container["env"]:
        reference = variable["valueFrom"]["secretKeyRef"]
        variables[variable["name"]] = BY_NAME["Secret", reference["name"]]["stringData"][reference["key"]]
    return variables


def production() -> config.Config:
    return config.load(environment(SERVICE) | VALID_SECRET)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A directory with only the files that the Dockerfile copies from the repository."""
    for source, target in COPIED.items():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, tmp_path / target)
    return tmp_path


def run(image: Path, *command: str, **variables: str) -> tuple[int, list[dict[str, Any]]]:
    """Run a command of the image with this Python and only these variables; the exit code and the log lines."""
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=image,
        env=variables,
        capture_output=True,
        text=True,
        timeout=waiting.LIMIT_SECONDS,
    )
    return done.returncode, [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda part: f"{part['kind']}/{part['metadata']['name']}")
def test_every_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    """It matches the schema of the oldest and the newest supported Kubernetes and has no unknown field."""
    kubernetes_validate.validate(manifest, version, strict=True)


def test_every_variable_of_a_manifest_is_read() -> None:
    """A misspelt name would have no effect on the service."""
    read_variables = RecordingEnvironment()
    with pytest.raises(config.ConfigError):
        config.load(read_variables)
    assert environment(SERVICE).keys() <= read_variables.keys()
    source = (ROOT / "service/migrate/__main__.py").read_text()
    assert environment(MIGRATE).keys() <= set(re.findall(r'os\.environ\.get\("(\w+)"\)', source))


def test_the_config_map_and_a_valid_secret_are_a_complete_configuration() -> None:
    """The service loads it without an error, as production."""
    assert production().environment == "production"


def test_kubectl_apply_overwrites_no_secret() -> None:
    """`kubectl apply -f k8s/` reads the Deployment, among others, and no Secret."""
    kinds = {part["kind"] for part in read(*APPLIED_FILES)}
    assert "Deployment" in kinds
    assert "Secret" not in kinds


def test_the_example_secret_is_refused(image: Path) -> None:
    """The service refuses each placeholder of the example, and the migration refuses its own."""
    with pytest.raises(config.ConfigError) as refused:
        config.load(environment(SERVICE))
    assert {re.split(r"\W", error)[0] for error in refused.value.errors} == VALID_SECRET.keys()
    code, _ = run(image, *MIGRATE["command"], **environment(MIGRATE))
    assert code != 0


def test_every_probe_requests_an_existing_path() -> None:
    """The path requires no token, and the port is the named port of the container."""
    open_paths = {route.path for route in app.ROUTES if route.method == "GET" and route.scope is None}
    for probe, path in (("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")):
        assert SERVICE[probe]["httpGet"] == {"path": path, "port": "http"}
        assert path in open_paths


def test_kubernetes_waits_longer_than_the_service_needs() -> None:
    """Its times exceed the wait for the database at the start, gunicorn's worker timeout, the drain and the stop."""
    gunicorn = server.gunicorn_settings(production())
    stop_seconds = gunicorn["graceful_timeout"] + server.STOP_RESERVE_SECONDS
    assert detection_seconds("startupProbe") > production().startup_wait_seconds + 10
    assert detection_seconds("livenessProbe") > max(gunicorn["timeout"], stop_seconds)
    assert SERVICE_POD["spec"]["terminationGracePeriodSeconds"] > production().drain_seconds + stop_seconds


def test_kubernetes_sees_the_drain_before_it_ends() -> None:
    """The readiness probe fails within the drain. No preStop hook delays SIGTERM, and so shortens the grace period."""
    assert detection_seconds("readinessProbe") < production().drain_seconds
    assert "lifecycle" not in SERVICE


def test_a_rollout_stops_an_old_pod_only_after_a_new_one_is_ready() -> None:
    """No pod is stopped for a release that does not become ready."""
    strategy = BY_NAME["Deployment", "ledger"]["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def detection_seconds(probe: str) -> int:
    """How long the answer must be negative until Kubernetes acts on it, if the answer comes at once."""
    seconds: int = SERVICE[probe]["periodSeconds"] * SERVICE[probe]["failureThreshold"]
    return seconds


def test_all_ports_are_equal() -> None:
    """The Service sends traffic to the port that the container names, the process uses and the image exposes."""
    assert SERVICE["ports"] == [{"name": "http", "containerPort": production().port}]
    assert BY_NAME["Service", "ledger"]["spec"]["ports"][0]["targetPort"] == "http"
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [str(production().port)]


def test_the_service_selects_only_the_pods_of_the_deployment() -> None:
    """The pod of a migration gets no traffic."""
    selector = BY_NAME["Service", "ledger"]["spec"]["selector"].items()
    assert selector <= SERVICE_POD["metadata"]["labels"].items()
    assert not selector <= MIGRATE_POD["metadata"]["labels"].items()


def test_the_migration_runs_with_the_same_image_and_restrictions_as_the_service() -> None:
    """Both run as the user of the image, which is not root."""
    for part in ("image", "securityContext"):
        assert MIGRATE[part] == SERVICE[part]
    user = SERVICE_POD["spec"]["securityContext"]
    assert user == MIGRATE_POD["spec"]["securityContext"]
    assert f"\nUSER {user['runAsUser']}:{user['runAsGroup']}\n" in DOCKERFILE


def test_the_image_contains_only_what_the_commands_need(image: Path) -> None:
    """With only service/ and sql/, both commands start and log one line: the configuration is missing."""
    assert COPIED.keys() == {"requirements.txt", "service/", "sql/"}
    not_ignored = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert not_ignored == [name.rstrip("/") for name in COPIED]
    [entrypoint] = re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)
    for command, code in (([*json.loads(entrypoint), "--check"], 78), (MIGRATE["command"], 6)):
        exit_code, lines = run(image, *command)
        assert (exit_code, len(lines)) == (code, 1)
