#!/usr/bin/env bash
# Two containers train DDP over torchrun; one is killed and comes back, and the weights are those of an undisturbed run.
# usage: torchrun.sh, with the image, and what compose.yaml asks for, in the environment
set -euo pipefail
cd "$(dirname "$0")/../.."
compose() { docker compose -f docker/compose.yaml --profile '*' "$@"; }
node() { compose ps -aq "$1"; }
export OVERRIDES="model=rnn clip=norm logger=tensorboard trainer.max_epochs=${EPOCHS:-15}"

up() { # RUN: no server is needed, the event file is the record
  export RUN=$1
  compose up -d --no-deps --force-recreate node0 node1 >/dev/null 2>&1
}

ended() { # both nodes, with code 0
  local name code
  for name in node0 node1; do
    for _ in $(seq 1200); do
      [[ $(docker inspect -f '{{.State.Status}}' "$(node $name)") == exited ]] && break
      sleep 1
    done
    code=$(docker inspect -f '{{.State.Status}} {{.State.ExitCode}}' "$(node $name)")
    [[ $code == "exited 0" ]] || { compose logs --no-color --tail 60 "$name" >&2; echo "$name: $code" >&2; return 1; }
  done
}

epochs_saved() { # of the run, as its last checkpoint says; a node that is coming back says nothing
  docker exec "$(node node0)" python -c "import json; print(json.load(open('/runs/$RUN/checkpoints/last.json'))['epoch'] + 1)" \
    2>/dev/null || echo 0
}

start=$SECONDS
up calm
ended
echo "seen: undisturbed, $((SECONDS - start)) s"

start=$SECONDS
up killed
until (($(epochs_saved) >= 2)); do
  ((SECONDS - start < 1200)) || { compose logs --no-color --tail 60 node0 node1 >&2; exit 1; }
  sleep 0.2
done
# The node's first process, from outside: what a machine that goes away does, and no `docker stop`.
kill -KILL "$(docker inspect -f '{{.State.Pid}}' "$(node node1)")"
before=$(epochs_saved)
ended
restarts=$(docker inspect -f '{{.RestartCount}}' "$(node node1)")
((restarts > 0)) || { echo "node1 was not killed" >&2; exit 1; }
((before < ${EPOCHS:-15})) || { echo "the run was over before the kill" >&2; exit 1; }
echo "seen: killed after epoch $before, back by $restarts restart(s), finished: $((SECONDS - start)) s"
compose run --rm -T --no-deps --entrypoint python train - /runs/calm /runs/killed <tests/cluster/torchrun_same_weights.py
