#!/usr/bin/env bash
# The manifests fit the schemas of Kubernetes and of Kubeflow Trainer, strictly, and one unknown field anywhere is refused.
# Exits 0 with "skipped: reason" where the schemas cannot be installed. PYTHON: what makes the environment for them.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
if ! "$python" -c 'import kubernetes_validate, kubeflow_trainer_api' 2>/dev/null; then
  work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
  "$python" -m venv "$work/venv"
  "$work/venv/bin/pip" install -q -c "$root/constraints.txt" kubernetes-validate kubeflow-trainer-api pyyaml >/dev/null 2>"$work/log" \
    || { echo "skipped: the schemas cannot be installed: $(grep -m 1 ERROR "$work/log")"; exit 0; }
  python=$work/venv/bin/python
fi
"$python" "$root/tests/cluster/kubernetes_manifests.py"
echo "seen: Kubernetes manifests, $SECONDS s"
