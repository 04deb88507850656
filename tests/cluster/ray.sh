#!/usr/bin/env bash
# A sweep of three through hydra/launcher=ray, and one run of two Ray Train workers, on a Ray cluster of this machine.
# usage: ray.sh [sweep | train], both by default. Exits 0 with "skipped: reason" where Ray cannot be had.
# PYTHON: one in which stabletrain can be imported; the extra `ray`, which needs cloudpickle<3, is installed above it.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHON=${PYTHON:-$root/.venv/bin/python} PYTHONPATH=$root RAY_USAGE_STATS_ENABLED=0 RAY_TRAIN_V2_ENABLED=1
work=$(mktemp -d /tmp/ray.XXXX)  # short: Ray's sockets lie below
trap 'rm -rf "$work"' EXIT
source "$root/tests/cluster/with_extra.sh"
"$PYTHON" -c 'import hydra_plugins.hydra_ray_launcher, ray.train' 2>/dev/null \
  || with_extra "$work/venv" hydra-ray-launcher 'ray[train]' || { [[ $? = 77 ]] && exit 0; exit 1; }
port=$((20000 + $$ % 5000))
setsid "$PYTHON" -m ray.scripts.scripts start --head --block --port=$port --num-cpus=2 --include-dashboard=false \
  --temp-dir="$work/ray" --object-store-memory=100000000 --disable-usage-stats >"$work/log" 2>&1 </dev/null &
head=$!
trap 'kill $head 2>/dev/null || true; wait $head 2>/dev/null || true; rm -rf "$work"' EXIT
export RAY_ADDRESS=127.0.0.1:$port
for _ in $(seq 600); do "$PYTHON" -m ray.scripts.scripts status --address="$RAY_ADDRESS" >/dev/null 2>&1 && break; sleep 1; done
mkdir "$work/here"; cd "$work/here"

if [[ ${1:-sweep} = sweep ]]; then
"$PYTHON" -m stabletrain -m hydra/launcher=ray hydra.launcher.ray.init.address="$RAY_ADDRESS" \
  +hydra.launcher.ray.init.object_store_memory=null \
  trainer=cpu trainer.max_epochs=3 logger=none output_dir=sweep seed=0,1,2 >out.txt 2>&1 \
  || { echo "failed: the sweep ends with $?"; tail -n 60 out.txt; exit 1; }
tail -n 8 out.txt
"$PYTHON" - <<'PY'
import json, pathlib

children = [json.loads(pathlib.Path(f"sweep/{n}/summary.json").read_text()) for n in range(3)]
assert [(c["status"], c["steps"]) for c in children] == [("finished", 3 * 39)] * 3, children
PY
echo "seen: a sweep of three on Ray, $SECONDS s"
fi

if [[ ${1:-train} = train ]]; then
"$PYTHON" -m stabletrain.integrations.ray --num-workers 2 model=rnn clip=norm trainer=cpu trainer.max_epochs=2 logger=mlflow \
  output_dir=runs/trained >out.txt 2>&1 || { echo "failed: the training ends with $?"; tail -n 60 out.txt; exit 1; }
"$PYTHON" -m stabletrain sync runs/trained >>out.txt 2>&1  # on a busy machine the run does not wait for all of it
"$PYTHON" - <<'PY'
import json, pathlib, sqlite3, yaml

run = pathlib.Path("runs/trained")
summary = json.loads((run / "summary.json").read_text())
assert (summary["status"], summary["steps"], summary["launch"]) == ("finished", 2 * 39, "torchrun-ray-trained"), summary
assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["devices"] == 2
assert sqlite3.connect("runs/mlflow.db").execute("select status from runs").fetchall() == [("FINISHED",)]
print("seen: two workers: steps", summary["steps"], "test/accuracy", summary["metrics"]["test/accuracy"])
PY
status=0
"$PYTHON" -m stabletrain.integrations.ray --num-workers 2 clip=nrom >out.txt 2>&1 || status=$?
[[ $status = 2 ]] && grep -q 'closest' out.txt || { echo "failed: a wrong request ends with $status"; cat out.txt; exit 1; }
echo "seen: two workers of Ray Train, $SECONDS s"
fi
