#!/usr/bin/env bash
# A Slurm of two nodes, n1 and n2, on this machine: source it, then `slurm_up FOLDER` … `slurm_down`.
# A requeued job waits as long as a credential lives, 120 s by default, here 5. Needs root and apt, and says with status 77 that it cannot be had. Every daemon is stopped by its own id.

slurm_install() {
  command -v slurmctld >/dev/null && command -v munged >/dev/null && return 0
  [[ $(id -u) = 0 ]] && command -v apt-get >/dev/null || { echo "skipped: Slurm needs root and apt"; return 77; }
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge; } \
    >/dev/null 2>&1 || { echo "skipped: Slurm cannot be installed"; return 77; }
}

slurm_up() { # folder for keys, logs and state
  slurm_install || return
  slurm_home=$1; slurm_pids=()
  mkdir -p "$slurm_home"/{run,log,state,n1,n2}
  head -c 1024 /dev/urandom >"$slurm_home/key"; chmod 400 "$slurm_home/key"
  export SLURM_CONF=$slurm_home/slurm.conf
  cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort=$((16000 + $$ % 500))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$slurm_home/run/munge,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
StateSaveLocation=$slurm_home/state
SlurmdSpoolDir=$slurm_home/%n
SlurmctldPidFile=$slurm_home/run/slurmctld.pid
SlurmdPidFile=$slurm_home/run/%n.pid
SlurmctldLogFile=$slurm_home/log/slurmctld
SlurmdLogFile=$slurm_home/log/%n
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
KillWait=10
JobRequeue=1
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((16500 + $$ % 500)) CPUs=2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port=$((17000 + $$ % 500)) CPUs=2
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
  slurm_start munged --force -F --key-file="$slurm_home/key" --socket="$slurm_home/run/munge" \
    --log-file="$slurm_home/log/munged" --pid-file="$slurm_home/run/munged.pid" --seed-file="$slurm_home/run/seed"
  sleep 1
  slurm_start slurmctld -D -c
  sleep 1
  slurm_start slurmd -D -N n1
  slurm_start slurmd -D -N n2
  for _ in $(seq 600); do [[ $(sinfo -h -N -o %T 2>/dev/null | grep -c idle) = 2 ]] && return 0; sleep 0.5; done
  echo "failed: Slurm does not come up"; tail -5 "$slurm_home"/log/* >&2; return 1
}

slurm_start() { setsid "$@" >/dev/null 2>&1 </dev/null & slurm_pids+=($!); }

slurm_down() {
  scancel --me 2>/dev/null || true
  for _ in $(seq 40); do [[ -z $(squeue -h 2>/dev/null) ]] && break; sleep 0.5; done
  for ((i = ${#slurm_pids[@]} - 1; i >= 0; i--)); do kill "${slurm_pids[i]}" 2>/dev/null || true; done
  wait "${slurm_pids[@]}" 2>/dev/null || true  # they write their state when they end
}

slurm_wait() { # job, seconds: until it has left the queue
  for _ in $(seq "$2"); do [[ -z $(squeue -h -j "$1" 2>/dev/null) ]] && return 0; sleep 1; done
  echo "failed: job $1 is still in the queue after $2 s: $(squeue -h -j "$1")"; return 1
}
