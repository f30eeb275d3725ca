"""The manifests for Kubernetes are valid and render, and give the commands options and settings that exist."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup

from onward.service import cli as service
from onward.service.app import create_app
from onward.service.settings import Settings
from onward.training import cli as training
from tests.packaging.test_monitoring import series

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy" / "kubernetes"
PARTS = sorted(path.parent.name for path in MANIFESTS.glob("*/kustomization.yaml"))
COMMANDS = {
    "onward-service": typer.main.get_command(service.cli),
    "onward-training": typer.main.get_command(training.cli),
}
ALL_COMPONENTS = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: shop
resources: [{folder}/base]
components: [{components}]
configMapGenerator:
  - {{ name: onward-addresses, literals: ["BUNDLES=s3://shop/bundles"] }}
"""


def documents(part: str) -> Iterator[dict[str, Any]]:
    for path in sorted((MANIFESTS / part).glob("*.yaml")):
        yield from (document for document in yaml.safe_load_all(path.read_text()) if isinstance(document, dict))


def pod_specs() -> Iterator[dict[str, Any]]:
    for part in PARTS:
        for document in documents(part):
            spec = document.get("spec", {})
            spec = spec.get("jobTemplate", document).get("spec", {})
            if "template" in spec:
                yield spec["template"]["spec"]


def containers() -> list[dict[str, Any]]:
    return [
        container
        for spec in pod_specs()
        for container in [*spec.get("initContainers", []), *spec.get("containers", [])]
    ]


def calls() -> Iterator[tuple[str, list[str]]]:
    """Return the command and arguments of each container, those in a shell script included."""
    for container in containers():
        arguments = container.get("args", [])
        if "command" not in container:
            yield container["image"], arguments
        script = arguments[-1].replace("\\\n", " ") if arguments else ""
        for program, rest in re.findall(r"(onward-service|onward-training|-m onward\.training) ([^;\n]+)", script):
            yield program.replace("-m onward.training", "onward-training"), rest.split()


def service_deployment() -> dict[str, Any]:
    (spec,) = (document["spec"] for document in documents("base") if document["kind"] == "Deployment")
    pod: dict[str, Any] = spec["template"]["spec"]
    return pod


@pytest.mark.parametrize(("program", "arguments"), [call for call in calls() if call[1]], ids=str)
def test_containers_call_commands_and_options_that_exist(program: str, arguments: list[str]) -> None:
    group = COMMANDS[program]
    assert isinstance(group, TyperGroup)
    command = group.commands[arguments[0]]
    options = {name for parameter in command.params for name in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= options


def test_three_kinds_of_calls_are_found() -> None:
    assert {arguments[0] for _, arguments in calls() if arguments} == {"pull", "fit", "train", "export"}


def test_variables_of_the_service_are_settings() -> None:
    (container,) = service_deployment()["containers"]
    names = {variable["name"] for variable in container["env"]}
    assert names - {"REDIS_URL"} <= {f"SERVICE_{name.upper()}" for name in Settings.model_fields}


def test_a_stop_has_time_to_drain() -> None:
    pod = service_deployment()
    (container,) = pod["containers"]
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    needed_s = float(env["SERVICE_DRAIN_DELAY"]) + float(env["SERVICE_SHUTDOWN_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] > needed_s
    probe = container["readinessProbe"]
    assert float(env["SERVICE_DRAIN_DELAY"]) > probe["periodSeconds"] * probe["failureThreshold"]


def test_probes_ask_for_paths_that_the_service_has(tmp_path: Path) -> None:
    (container,) = service_deployment()["containers"]
    paths = set(create_app(Settings(bundles=tmp_path, redis_url="memory://")).openapi()["paths"])  # type: ignore[arg-type]
    probes = ("readinessProbe", "livenessProbe", "startupProbe")
    assert {container[probe]["httpGet"]["path"] for probe in probes} <= paths


def test_every_container_is_hardened() -> None:
    for container in containers():
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}
    for spec in pod_specs():
        assert spec["securityContext"]["runAsNonRoot"]


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_makes_of_one_of_the_service() -> None:
    (autoscaler,) = (each for each in documents("autoscaling") if each["kind"] == "HorizontalPodAutoscaler")
    (rule,) = yaml.safe_load((MANIFESTS / "autoscaling" / "adapter-rules.yaml").read_text())
    (metric,) = autoscaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert rule["seriesQuery"].startswith(rule["name"]["matches"])
    assert rule["name"]["matches"] in series()


def test_images_of_the_example_have_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    example = yaml.safe_load((MANIFESTS / "example" / "kustomization.yaml").read_text())
    assert {image["newTag"] for image in example["images"]} == {version}


@pytest.mark.kubernetes
def test_the_example_renders_and_is_valid() -> None:
    rendered = render(MANIFESTS / "example")
    validate(rendered)
    images = re.findall(r"image: (\S+)", rendered)
    assert images
    assert all(image.startswith("registry.example.com/") for image in images)


@pytest.mark.kubernetes
def test_all_components_together_render_and_are_valid(tmp_path: Path) -> None:
    components = [part for part in PARTS if part not in ("base", "example")]
    folder = tmp_path / "overlay"
    folder.mkdir()
    shutil.copytree(MANIFESTS, tmp_path / "kubernetes")
    (folder / "kustomization.yaml").write_text(
        ALL_COMPONENTS.format(
            folder="../kubernetes", components=", ".join(f"../kubernetes/{component}" for component in components)
        )
    )
    rendered = render(folder)
    validate(rendered)
    kinds = {document["kind"] for document in yaml.safe_load_all(rendered)}
    assert {"Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "CronJob", "Job"} <= kinds


@pytest.mark.kubernetes
def test_the_validation_refuses_a_field_that_does_not_exist() -> None:
    rendered = render(MANIFESTS / "example").replace("readinessProbe:", "readynessProbe:")
    with pytest.raises(AssertionError, match="readynessProbe"):
        validate(rendered)


def render(folder: Path) -> str:
    return run(["kubectl", "kustomize", str(folder)])


def validate(rendered: str) -> None:
    run(["kubernetes-validate", "--strict", "--quiet", "/dev/stdin"], rendered)


def run(command: list[str], text: str | None = None) -> str:
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
