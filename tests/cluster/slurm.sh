#!/usr/bin/env bash
# Two nodes train over Slurm, are signalled, go back into the queue, resume, and finish: one folder, one MLflow run.
# Exits 0 with "skipped: reason" where Slurm cannot be installed. PYTHON: one in which stabletrain can be imported.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHON=${PYTHON:-$root/.venv/bin/python} PYTHONPATH=$root MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=lo
source "$root/tests/cluster/slurm_lab.sh"

work=$(mktemp -d)
slurm_pids=()
slurm_install || { [[ $? = 77 ]] && exit 0; exit 1; }
trap 'slurm_down; rm -rf "$work"' EXIT
slurm_up "$work/slurm"
mkdir "$work/here"; cd "$work/here"

job=$(sbatch --parsable "$root/docker/slurm/train.sbatch" trainer=cpu trainer.max_epochs=12 logger=mlflow clip=norm)
run=runs/slurm-$job
for _ in $(seq 1200); do [[ -s $run/checkpoints/last.ckpt ]] && break; sleep 0.5; done
[[ -s $run/checkpoints/last.ckpt ]] || { echo "failed: no checkpoint"; cat slurm-*.out; exit 1; }
echo "job $job saved first after $SECONDS s"
scancel --signal=USR1 "$job"
slurm_wait "$job" 1200 || { cat slurm-*.out; exit 1; }
cat "slurm-$job.out"
"$PYTHON" -m stabletrain sync "$run"  # what a slow machine left for later
scontrol show job "$job" | grep -E 'JobState|Restarts'
"$PYTHON" - "$run" "$(scontrol show job "$job")" <<'PY'
import json, pathlib, re, sqlite3, sys, yaml

run, job = pathlib.Path(sys.argv[1]), sys.argv[2]
summary = json.loads((run / "summary.json").read_text())
assert "JobState=COMPLETED" in job and int(re.search(r"Restarts=(\d+)", job).group(1)) == 1, job
assert summary["status"] == "finished" and summary["steps"] == 12 * 39, summary  # 39 steps an epoch, none twice
assert summary["resumed_from"] == str(run.absolute()), summary
assert [p.parent for p in pathlib.Path("runs").glob("*/summary.json")] == [run]
config = yaml.safe_load((run / "config.yaml").read_text())
assert (config["trainer"]["devices"], config["trainer"]["num_nodes"]) == (1, 2), config["trainer"]
runs = sqlite3.connect("runs/mlflow.db").execute("select status from runs").fetchall()
assert runs == [("FINISHED",)], runs
print("seen: resumed; steps", summary["steps"], "test/accuracy", summary["metrics"]["test/accuracy"])
PY
echo "seen: Slurm, two nodes, signalled and resumed, $SECONDS s"
