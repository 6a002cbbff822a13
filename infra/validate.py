"""Checks infra/ against public schemas, by the tools that are there: says for each file what was checked, exits 1 on a problem.

    python infra/validate.py --kuberay CHECKOUT [--prometheus-operator CHECKOUT] [--compose-spec CHECKOUT]

Checkouts are those of ray-project/kuberay, prometheus-operator/prometheus-operator and compose-spec/compose-spec. Of tools it
uses hadolint, promtool and docker compose where they are on the path. Needs PyYAML and jsonschema; kubernetes-validate for what
belongs to Kubernetes itself, and grafana-foundation-sdk for the dashboard.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

INFRA = Path(__file__).parent
# Where a custom resource's definition lies in the checkout of its project.
CRDS = {
    "RayCluster": ("kuberay", "ray-operator/config/crd/bases/ray.io_rayclusters.yaml"),
    "RayJob": ("kuberay", "ray-operator/config/crd/bases/ray.io_rayjobs.yaml"),
    "PodMonitor": (
        "prometheus_operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ),
}
SECRETS = {name: "x" for name in ("MINIO_USER", "MINIO_PASSWORD", "POSTGRES_PASSWORD")}


def main() -> None:
    """Check everything, and print a line for each file and way of checking."""
    parser = argparse.ArgumentParser(description="Check infra/ against public schemas.")
    for name in ("kuberay", "prometheus-operator", "compose-spec"):
        parser.add_argument(f"--{name}", type=Path, metavar="CHECKOUT")
    checkouts = vars(parser.parse_args())
    problems = 0
    for what, how, found in [*kubernetes(checkouts), *compose(checkouts), *monitoring(), *dashboard(), *dockerfile()]:
        print(f"{what}: {how}: {'not checked' if found is None else found or 'ok'}")
        problems += bool(found)
    sys.exit(1 if problems else 0)


Check = tuple[str, str, str | None]


def kubernetes(checkouts: dict[str, Path | None]) -> Iterator[Check]:
    """Check each document against the definition of its kind; unknown keys are problems, as `kubectl` would say."""
    for path in sorted((INFRA / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            what = f"{path.relative_to(INFRA)} {document['kind']} {document['metadata']['name']}"
            if document["kind"] in CRDS:
                project, definition = CRDS[document["kind"]]
                checkout = checkouts[project]
                found = None
                if checkout is not None:
                    crd = yaml.safe_load((checkout / definition).read_text())
                    found = _errors(document, _crd_schema(crd, document["apiVersion"].rpartition("/")[2]))
                yield what, f"CRD of {project.replace('_', '-')}", found
            else:
                yield what, "Kubernetes' schema", _kubernetes_errors(document)


def compose(checkouts: dict[str, Path | None]) -> Iterator[Check]:
    """Check the compose files against compose-spec, and as `docker compose config` merges them."""
    checkout = checkouts["compose_spec"]
    for path in sorted(INFRA.glob("compose*.yaml")):
        schema = None if checkout is None else json.loads((checkout / "schema/compose-spec.json").read_text())
        found = None if schema is None else _errors(yaml.safe_load(path.read_text()), schema)
        yield path.name, "compose-spec", found
    docker = shutil.which("docker")
    has_compose = docker is not None and not _run([docker, "compose", "version"])
    for names in (["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]):
        files = [word for name in names for word in ("--file", str(INFRA / name))]
        command = [str(docker), "compose", *files, "--profile", "monitoring", "config", "--quiet"]
        yield " + ".join(names), "docker compose config", _run(command, SECRETS) if has_compose else None


def monitoring() -> Iterator[Check]:
    """Check Prometheus' files and every expression of the dashboard by promtool."""
    promtool = shutil.which("promtool")
    folder = INFRA / "monitoring"
    with tempfile.TemporaryDirectory() as temporary:
        # The rules lie in the container at another place.
        config = (folder / "prometheus.yml").read_text().replace("/etc/prometheus", str(folder))
        (Path(temporary) / "prometheus.yml").write_text(config)
        rules = Path(temporary) / "dashboard.yml"
        rules.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": list(_dashboard_rules())}]}))
        command = [str(promtool), "check", "config", f"{temporary}/prometheus.yml"]
        yield "monitoring/prometheus.yml, alerts.yml", "promtool", _run(command) if promtool else None
        command = [str(promtool), "check", "rules", "--lint=none", str(rules)]
        yield "monitoring/dashboard.json expressions", "promtool", _run(command) if promtool else None


def dashboard() -> Iterator[Check]:
    """Read the dashboard by Grafana's own types and write it again: what they do not know would be lost."""
    found = None
    if importlib.util.find_spec("grafana_foundation_sdk") is not None:
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.models.dashboard import Dashboard

        document = json.loads((INFRA / "monitoring" / "dashboard.json").read_text())
        written = json.loads(JSONEncoder().encode(Dashboard.from_json(document)))
        found = "; ".join(_lost(document, written))
    yield "monitoring/dashboard.json", "Grafana's types", found


def _lost(before: Any, after: Any, where: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from _lost(value, after.get(key), f"{where}/{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from _lost(one, other, f"{where}/{number}")
    elif before != after:
        yield f"{where}: {before!r} became {after!r}"


def dockerfile() -> Iterator[Check]:
    """Lint the Dockerfile, and parse the entry point by the shell."""
    hadolint = shutil.which("hadolint")
    yield "Dockerfile", "hadolint", _run([hadolint, "--no-color", str(INFRA / "Dockerfile")]) if hadolint else None
    yield "entrypoint.sh", "sh -n", _run(["sh", "-n", str(INFRA / "entrypoint.sh")])


def _dashboard_rules() -> Iterator[dict[str, str]]:
    """Give the dashboard's expressions as recording rules, with Grafana's variables in place."""
    variables = {"$run_id": ".*", "$last_stage": "vfi", "$__rate_interval": "5m"}
    dashboard = json.loads((INFRA / "monitoring" / "dashboard.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    for number, target in enumerate(targets):
        expression = target["expr"]
        for name, value in variables.items():
            expression = expression.replace(name, value)
        yield {"record": f"dashboard:expression:{number}", "expr": expression}


def _crd_schema(crd: dict[str, Any], version: str) -> dict[str, Any]:
    found = next(each for each in crd["spec"]["versions"] if each["name"] == version)
    schema: dict[str, Any] = _closed(found["schema"]["openAPIV3Schema"])
    # Of metadata a CRD says nothing; it is Kubernetes' own.
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _closed(schema: Any) -> Any:
    """Return a schema in which an object with named properties has no others, and quantities may be numbers."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(closed.get("properties"), dict) and "type" in closed and "additionalProperties" not in closed:
        closed["additionalProperties"] = bool(closed.get("x-kubernetes-preserve-unknown-fields", False))
    if closed.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed


def _errors(document: Any, schema: dict[str, Any]) -> str:
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)(schema)
    found = sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.absolute_path)))
    return "; ".join(f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found)


def _kubernetes_errors(document: dict[str, Any]) -> str | None:
    if importlib.util.find_spec("kubernetes_validate") is None:
        return None
    import kubernetes_validate

    try:
        kubernetes_validate.validate(document, "1.33", strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return ""


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    env = {**os.environ, **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    return "" if done.returncode == 0 else re.sub(r"\s+", " ", done.stdout + done.stderr).strip()


if __name__ == "__main__":
    main()
