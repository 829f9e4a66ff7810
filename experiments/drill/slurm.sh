#!/usr/bin/env bash
# slurm.sh COMMAND...: start a Slurm of one node on this machine, run a command, and stop it again.
# Needs root; Debian's slurm-wlm is installed where it is not there. All state is in a folder of its
# own, which is removed at the end.
set -euo pipefail

if ! command -v slurmctld > /dev/null || ! command -v munged > /dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm
fi

state=$(mktemp -d -t jaxoff-slurm-XXXXXX)
chmod 755 "$state"
started=()
stop() {
    scancel --me 2> /dev/null || true
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do kill "${started[$i]}" 2> /dev/null || true; done
    sleep 2
    for pid in "${started[@]}"; do kill -9 "$pid" 2> /dev/null || true; done
    wait 2> /dev/null || true
    rm -rf "$state"
}
trap stop EXIT

install -d -o munge -g munge -m 755 "$state/munge"
dd if=/dev/urandom of="$state/munge/key" bs=1024 count=1 status=none
chown munge: "$state/munge/key"
chmod 400 "$state/munge/key"
runuser -u munge -- munged --foreground --force --key-file="$state/munge/key" \
    --socket="$state/munge/socket" --pid-file="$state/munge/pid" --log-file="$state/munge/log" \
    --seed-file="$state/munge/seed" > /dev/null 2>&1 &
started+=($!)

name=$(hostname -s)
port=$((20000 + RANDOM % 10000)) # so that another run, or a Slurm of the machine, is not in the way
mkdir "$state/ctld" "$state/d"
cat > "$state/slurm.conf" << CONF
ClusterName=drill
SlurmctldHost=$name(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$state/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/d
SlurmctldPidFile=$state/ctld.pid
SlurmdPidFile=$state/d.pid
SlurmctldLogFile=$state/ctld.log
SlurmdLogFile=$state/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=20
SchedulerParameters=sched_interval=2,batch_sched_delay=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
NodeName=$name NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=drill Nodes=$name Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$state/slurm.conf"

for _ in $(seq 100); do [ -S "$state/munge/socket" ] && break; sleep 0.1; done
slurmctld -D > /dev/null 2>&1 &
started+=($!)
slurmd -D > /dev/null 2>&1 &
started+=($!)
for _ in $(seq 300); do
    for pid in "${started[@]}"; do kill -0 "$pid" || { cat "$state"/*.log >&2; exit 1; }; done
    sinfo --noheader --format=%t 2> /dev/null | grep -qx idle && break
    sleep 0.2
done
sinfo --noheader --format=%t | grep -qx idle || { cat "$state"/*.log >&2; exit 1; }
"$@"
