"""k8s/ and the Dockerfile: what they say fits together and fits the service. Needs no cluster and no image."""

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

from service import app, config, server

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "k8s").glob("*.yaml"))
MANIFESTS: list[dict[str, Any]] = [part for path in FILES for part in yaml.safe_load_all(path.read_text())]
BY_NAME = {(part["kind"], part["metadata"]["name"]): part for part in MANIFESTS}
SERVICE_POD = BY_NAME["Deployment", "ledger"]["spec"]["template"]
MIGRATE_POD = BY_NAME["Job", "ledger-migrate"]["spec"]["template"]
[SERVICE] = SERVICE_POD["spec"]["containers"]
[MIGRATE] = MIGRATE_POD["spec"]["containers"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COPIED = dict(re.findall(r"^COPY (\S+) (\S+)$", DOCKERFILE, re.MULTILINE))
GOOD_SECRET = {
    "DATABASE_URL": "postgresql://ledger_service:secret@db:5432/ledger",
    "CALLERS": json.dumps([{"name": "checkout", "scopes": ["write"], "token_sha256": ["0" * 64]}]),
}


class Asked(dict[str, str]):
    """An empty environment that keeps the names it was asked for."""

    def get(self, name: str, default: Any = None) -> Any:
        return self.setdefault(name, "") or default


def environment(container: dict[str, Any]) -> dict[str, str]:
    """What Kubernetes would give the container, with the example Secrets. KeyError if a reference leads nowhere."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= BY_NAME["ConfigMap", source["configMapRef"]["name"]]["data"]
    for variable in container["env"]:
        reference = variable["valueFrom"]["secretKeyRef"]
        found[variable["name"]] = BY_NAME["Secret", reference["name"]]["stringData"][reference["key"]]
    return found


def production() -> config.Config:
    return config.load(environment(SERVICE) | GOOD_SECRET)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A directory with what the Dockerfile copies from the repository, and nothing else of it."""
    for source, target in COPIED.items():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, tmp_path / target)
    return tmp_path


def run(image: Path, *command: str, **variables: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the lines of a command of the image, `python` being ours, without any other variable."""
    done = subprocess.run([sys.executable, *command[1:]], cwd=image, env=variables, capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda part: f"{part['kind']}/{part['metadata']['name']}")
def test_every_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    """Each part keeps the schema of the oldest and the newest Kubernetes, and has no field that it does not know."""
    kubernetes_validate.validate(manifest, version, strict=True)


def test_every_variable_is_one_that_is_read() -> None:
    """No manifest sets a variable that its process would never look at, in a misspelt name for example."""
    asked = Asked()
    with pytest.raises(config.ConfigError):
        config.load(asked)
    assert environment(SERVICE).keys() <= asked.keys()
    source = (ROOT / "service/migrate/__main__.py").read_text()
    assert environment(MIGRATE).keys() <= set(re.findall(r'os\.environ\.get\("(\w+)"\)', source))


def test_the_config_map_and_a_good_secret_are_all_it_needs() -> None:
    """With them the service loads its configuration without a fault, and as production."""
    assert production().environment == "production"


def test_the_example_secret_cannot_be_deployed(image: Path) -> None:
    """Its placeholders are refused, each for itself, by the service and by the migration."""
    with pytest.raises(config.ConfigError) as refused:
        config.load(environment(SERVICE))
    assert {re.split(r"\W", fault)[0] for fault in refused.value.faults} == GOOD_SECRET.keys()
    code, _ = run(image, *MIGRATE["command"], **environment(MIGRATE))
    assert code != 0


def test_probes_ask_paths_that_exist() -> None:
    """Each probe gets a route that needs no token, through the named port."""
    open_paths = {route.path for route in app.ROUTES if route.method == "GET" and route.scope is None}
    for probe, path in (("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")):
        assert SERVICE[probe]["httpGet"] == {"path": path, "port": "http"}
        assert path in open_paths


def test_times_leave_the_process_room() -> None:
    """Neither the wait for the database, nor gunicorn's own watch over its worker, nor its stop is cut short."""
    gunicorn, startup, liveness = server.settings(production()), SERVICE["startupProbe"], SERVICE["livenessProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > production().startup_wait_seconds + 10
    assert liveness["periodSeconds"] * liveness["failureThreshold"] > gunicorn["timeout"]
    assert SERVICE_POD["spec"]["terminationGracePeriodSeconds"] > gunicorn["graceful_timeout"]


def test_ports_agree() -> None:
    """The Service leads to the port that the container names, the process listens on and the image exposes."""
    assert SERVICE["ports"] == [{"name": "http", "containerPort": production().port}]
    assert BY_NAME["Service", "ledger"]["spec"]["ports"][0]["targetPort"] == "http"
    assert re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE) == [str(production().port)]


def test_the_service_selects_its_pods_and_no_others() -> None:
    """Traffic reaches the pods of the Deployment and never the pod of a migration."""
    selector = BY_NAME["Service", "ledger"]["spec"]["selector"].items()
    assert selector <= SERVICE_POD["metadata"]["labels"].items()
    assert not selector <= MIGRATE_POD["metadata"]["labels"].items()


def test_the_migration_runs_as_the_service_does() -> None:
    """The same image under the same restrictions, as the user of the image, who is not root."""
    for part in ("image", "securityContext"):
        assert MIGRATE[part] == SERVICE[part]
    user = SERVICE_POD["spec"]["securityContext"]
    assert user == MIGRATE_POD["spec"]["securityContext"]
    assert f"\nUSER {user['runAsUser']}:{user['runAsGroup']}\n" in DOCKERFILE


def test_the_image_has_all_it_needs_and_no_more(image: Path) -> None:
    """Of service/ and sql/ alone both commands start, and each says in one line that it lacks its configuration."""
    assert COPIED.keys() == {"requirements.txt", "service/", "sql/"}
    let_in = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert let_in == [name.rstrip("/") for name in COPIED]
    [entrypoint] = re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)
    for command, code in (([*json.loads(entrypoint), "--check"], 78), (MIGRATE["command"], 6)):
        exit_code, lines = run(image, *command)
        assert (exit_code, len(lines)) == (code, 1)
