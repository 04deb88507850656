"""Holds docker/kubernetes/*.yaml to their schemas, and each check to a manifest that it must refuse. No cluster."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob as TrainJob

FOLDER = Path(__file__).parents[2] / "docker" / "kubernetes"
VERSION = "1.31"  # of Kubernetes; podFailurePolicy is stable from there on


def wrongs_of(manifest: dict[str, Any]) -> list[str]:
    """Return what a manifest's schema says against it; unknown fields are wrong."""
    if manifest["kind"] == "TrainJob":
        return _wrongs_of_train_job(manifest)
    try:
        kubernetes_validate.validate(manifest, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


def _wrongs_of_train_job(manifest: dict[str, Any]) -> list[str]:
    """Read a TrainJob into Kubeflow's own model and back: what the model does not know, it drops without a word."""
    try:
        job = TrainJob.from_dict(manifest)
    except ValueError as error:
        return [str(error)]
    assert job is not None
    return sorted(f"{path} is unknown" for path in paths_of(manifest) - paths_of(job.to_dict()))


def paths_of(node: Any, path: str = "") -> set[str]:
    """Return each leaf of nested data as `path=value`."""
    if isinstance(node, dict) and node:
        return set().union(*(paths_of(v, f"{path}.{k}") for k, v in node.items()))
    if isinstance(node, list) and node:
        return set().union(*(paths_of(v, f"{path}[{i}]") for i, v in enumerate(node)))
    return {f"{path}={node!r}"}


def sections_of(node: Any) -> list[dict[str, Any]]:
    """Return every mapping in a manifest whose fields the schema fixes: names that users choose are not among them."""
    if isinstance(node, list):
        return [section for child in node for section in sections_of(child)]
    if not isinstance(node, dict):
        return []
    free = ("labels", "requests", "limits")
    return [node, *(s for k, v in node.items() if k not in free for s in sections_of(v))]


def hardening_of(pod: dict[str, Any], container: dict[str, Any]) -> list[str]:
    """Return what a pod lacks of what ours promise."""
    inner = container["securityContext"]
    promises = {
        "non-root": pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0,
        "seccomp": pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault",
        "read-only": inner["readOnlyRootFilesystem"] is True,
        "no escalation": inner["allowPrivilegeEscalation"] is False,
        "no capabilities": inner["capabilities"]["drop"] == ["ALL"],
    }
    return [name for name, kept in promises.items() if not kept]


def main() -> int:
    """Check all manifests; return the exit code."""
    manifests = [m for path in sorted(FOLDER.glob("*.yaml")) for m in yaml.safe_load_all(path.read_text())]
    assert [m["kind"] for m in manifests] == ["PersistentVolumeClaim", "Job", "TrainJob"], manifests
    num_refused = 0
    for manifest in manifests:
        assert wrongs_of(manifest) == [], (manifest["kind"], wrongs_of(manifest))
        for index in range(len(sections_of(manifest))):
            broken = copy.deepcopy(manifest)
            sections_of(broken)[index]["notAField"] = "x"
            assert wrongs_of(broken), f"{manifest['kind']}: an unknown field passes in {sections_of(manifest)[index]}"
            num_refused += 1
    _, job, train_job = manifests
    pod = job["spec"]["template"]["spec"]
    assert hardening_of(pod, pod["containers"][0]) == []
    (patch,) = train_job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    assert hardening_of(pod, pod["containers"][0]) == []
    for variables in (job["spec"]["template"]["spec"]["containers"][0]["env"], train_job["spec"]["trainer"]["env"]):
        secret = [v for v in variables if v["name"].endswith(("USERNAME", "PASSWORD"))]
        assert len(secret) == 2
        assert all("value" not in v and "secretKeyRef" in v["valueFrom"] for v in secret)
    print(
        f"seen: {len(manifests)} manifests fit their schemas; {num_refused} copies with one unknown field are refused"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
