#!/usr/bin/env bash
# A sweep of three over Slurm through hydra/launcher=submitit_slurm; one child is preempted, goes back into the queue and
# resumes in its own folder. Exits 0 with "skipped: reason" where Slurm or submitit cannot be had.
# PYTHON: one in which stabletrain can be imported; the extra `slurm` is installed above it if it lacks.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHON=${PYTHON:-$root/.venv/bin/python} PYTHONPATH=$root MASTER_ADDR=127.0.0.1
source "$root/tests/cluster/slurm_lab.sh"
source "$root/tests/cluster/with_extra.sh"

slurm_install || { [[ $? = 77 ]] && exit 0; exit 1; }
work=$(mktemp -d)
slurm_pids=()
trap 'slurm_down; rm -rf "$work"' EXIT
"$PYTHON" -c 'import hydra_plugins.hydra_submitit_launcher' 2>/dev/null \
  || with_extra "$work/venv" -c "$root/constraints.txt" hydra-submitit-launcher submitit || { [[ $? = 77 ]] && exit 0; exit 1; }
slurm_up "$work/slurm"
mkdir "$work/here"; cd "$work/here"

"$PYTHON" -m stabletrain -m hydra/launcher=submitit_slurm hydra.launcher.partition=debug hydra.launcher.mem_gb=null \
  hydra.launcher.timeout_min=60 hydra.launcher.max_num_timeout=5 hydra.launcher.signal_delay_s=90 \
  trainer=cpu trainer.max_epochs=15 logger=mlflow output_dir=sweep seed=0,1,2 >out.txt 2>&1 &
sweep=$!
for _ in $(seq 1200); do [[ -s sweep/0/checkpoints/last.ckpt ]] && break; kill -0 "$sweep" 2>/dev/null || break; sleep 0.5; done
[[ -s sweep/0/checkpoints/last.ckpt ]] || { echo "failed: no checkpoint"; cat out.txt; exit 1; }
job=$(squeue -h -r -o '%A %a %K' | head -1 | cut -d' ' -f1)
child=$(squeue -h -r -o '%i' -j "$job" | grep '_0$')
scancel --signal=USR2 "$child"
echo "child $child preempted after $SECONDS s"
wait "$sweep" || { echo "failed: the sweep ends with $?"; cat out.txt; find . -name '*.err' -exec tail -n 30 {} +; exit 1; }
tail -n 12 out.txt
"$PYTHON" - <<'PY'
import json, pathlib, sqlite3

children = [json.loads(pathlib.Path(f"sweep/{n}/summary.json").read_text()) for n in range(3)]
assert [c["status"] for c in children] == ["finished"] * 3, children
assert [c["steps"] for c in children] == [15 * 39] * 3, children
assert children[0]["resumed_from"] == str(pathlib.Path("sweep/0").absolute()), children[0]
assert children[1]["resumed_from"] is None and children[2]["resumed_from"] is None
assert len({c["mlflow_run_id"] for c in children}) == 3
(store,) = pathlib.Path(".").rglob("mlflow.db")
print("seen: MLflow runs:", sqlite3.connect(store).execute("select name, status from runs").fetchall())
PY
echo "seen: submitit, a sweep of three, one child requeued, $SECONDS s"
