"""Judges what a chart rendered: strictly by the schemas of Kubernetes, and by what belongs together.

    validate.py manifests FILE...         each kind, against every version from 1.30 on
    validate.py compose FILE SCHEMA       a compose file against the schema of the compose specification
    validate.py dashboard FILE RULES      writes the dashboard's queries as rules, for promtool to check

A field that no schema has is an error. Kinds of cert-manager and the Prometheus Operator are judged
by the models of packages that are made from their definitions; without these, they are said to be
unjudged. Left out: what only a cluster's admission knows. Called by deploy/check.
"""

import functools
import json
import sys

import jsonschema
import yaml

OLDEST = (1, 30)
PROBLEMS = []


def complain(text):
    PROBLEMS.append(text)


def manifests(paths):
    versions = schema_versions()
    models, judged, unjudged = custom_models(), 0, set()
    for path in paths:
        with open(path) as file:
            documents = [document for document in yaml.safe_load_all(file) if document]
        for document in documents:
            kind = (document["apiVersion"], document["kind"])
            if "." in kind[0].split("/")[0] and not kind[0].split("/")[0].endswith(".k8s.io"):
                schema = models.get(kind)
                if schema is None:
                    unjudged.add("/".join(kind))
                else:
                    judge(path, document, jsonschema.Draft202012Validator(schema))
            else:
                native(path, document, versions)
            judged += 1
        belongs_together(path, documents)
    print(f"{judged} manifests, Kubernetes {versions[0]} to {versions[-1]}")
    for kind in sorted(unjudged):
        print(f"skipped: no schema of {kind} here")


def schema_versions():
    import kubernetes_validate

    # It would read its files again for each manifest.
    utils = kubernetes_validate.utils
    utils.schema_contents = functools.lru_cache(None)(utils.schema_contents)
    every = utils.all_versions()
    numbers = {tuple(int(part) for part in version.split(".")[:2]) for version in every}
    return [f"{major}.{minor}" for major, minor in sorted(numbers) if (major, minor) >= OLDEST]


def native(path, document, versions):
    import kubernetes_validate

    for version in versions:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(part) for part in error.path)
            return complain(f"{path}: {name(document)}: {where}: {error.message} ({version})")
        except kubernetes_validate.SchemaNotFoundError as error:
            return complain(f"{path}: {name(document)}: {error.message}")


def judge(path, document, validator):
    for error in validator.iter_errors(document):
        where = ".".join(str(part) for part in error.path)
        complain(f"{path}: {name(document)}: {where}: {error.message}")


def custom_models():
    """Strict schemas by (apiVersion, kind), of those packages that are there."""
    models = {}
    try:
        from cloudcoil.models.cert_manager import v1 as certificates
        from cloudcoil.models.prometheus_operator import v1 as monitoring
    except ImportError:
        return models
    for module, group in (certificates, "cert-manager.io"), (monitoring, "monitoring.coreos.com"):
        for kind in "Certificate", "Issuer", "ServiceMonitor", "PrometheusRule":
            if model := getattr(module, kind, None):
                models[(f"{group}/v1", kind)] = strict(model.model_json_schema(by_alias=True))
    return models


def strict(schema):
    """The schema, with fields refused that it does not name."""
    if isinstance(schema, dict):
        if "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
        for value in schema.values():
            strict(value)
    elif isinstance(schema, list):
        for value in schema:
            strict(value)
    return schema


def name(document):
    return f"{document['kind']} {document['metadata']['name']}"


def belongs_together(path, documents):
    """Selectors select the nodes' pods, ports exist, and what is referred to is there."""
    there = {(document["kind"], document["metadata"]["name"]) for document in documents}
    workload = next(d for d in documents if d["kind"] in ("Deployment", "StatefulSet"))
    pod = workload["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    listening = {
        port.get("name"): port.get("protocol", "TCP")
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    }
    for document in documents:
        spec, who = document.get("spec", {}), f"{path}: {name(document)}"
        selector = spec.get("podSelector") or spec.get("selector") or {}
        if document["kind"] == "ServiceMonitor":
            selector = {}
        for label in selector.get("matchLabels", selector).items():
            if label not in labels:
                complain(f"{who}: selects {label}, which the pods do not have")
        if document["kind"] == "Service":
            for port in spec["ports"]:
                if listening.get(port["targetPort"]) != port["protocol"]:
                    complain(f"{who}: no container listens on {port['targetPort']}")
        target = spec.get("scaleTargetRef")
        if target and (target["kind"], target["name"]) not in there:
            complain(f"{who}: there is no {target}")
        if document["kind"].endswith("RoleBinding"):
            role = document["roleRef"]
            for needed in [role, *document["subjects"]]:
                if (needed["kind"], needed["name"]) not in there | {("ServiceAccount", "default")}:
                    complain(f"{who}: there is no {needed['kind']} {needed['name']}")
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    claims = workload["spec"].get("volumeClaimTemplates", [])
    volumes |= {claim["metadata"]["name"] for claim in claims}
    containers = pod["spec"]["containers"] + pod["spec"].get("initContainers", [])
    for mount in [mount for c in containers for mount in c.get("volumeMounts", [])]:
        if mount["name"] not in volumes:
            complain(f"{path}: {name(workload)}: there is no volume {mount['name']}")


def compose(path, schema):
    with open(path) as file, open(schema) as rules:
        document = yaml.safe_load(file)
        validator = jsonschema.Draft7Validator(json.load(rules))
    for error in validator.iter_errors(document):
        complain(f"{path}: {'.'.join(str(part) for part in error.path)}: {error.message}")
    for service, settings in document["services"].items():
        for volume in settings.get("volumes", []):
            if volume.split(":")[0] not in document["volumes"]:
                complain(f"{path}: {service}: there is no volume {volume}")
        for other in settings.get("depends_on", []):
            if other not in document["services"]:
                complain(f"{path}: {service}: there is no service {other}")
    print(f"{len(document['services'])} services")


def dashboard(path, rules):
    with open(path) as file:
        panels = json.load(file)["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    if len(set(places)) != len(places):
        complain(f"{path}: two panels at one place")
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    values = {"$instance": ".*", "$__rate_interval": "5m", "$__range": "1h"}
    for variable, value in values.items():
        queries = [query.replace(variable, value) for query in queries]
    named = [{"record": f"query_{i}", "expr": query} for i, query in enumerate(queries)]
    with open(rules, "w") as file:
        yaml.safe_dump({"groups": [{"name": "dashboard", "rules": named}]}, file)
    print(f"{len(queries)} queries")


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    if task == "manifests":
        manifests(arguments)
    else:
        {"compose": compose, "dashboard": dashboard}[task](*arguments)
    for problem in PROBLEMS:
        print(problem, file=sys.stderr)
    sys.exit(bool(PROBLEMS))
