#!/bin/bash
# @@{title}
# A sweep of clsweep under Slurm, on a Ray cluster of the job's own nodes. Made by
#   @@{command}
#
# Start    sbatch @@{file}    (account, partition, QoS as your site asks: sbatch -A ACCOUNT -p PARTITION -q QOS @@{file})
# Follow   tail -F @@{name}-JOB.out;  squeue --me
# Stop     scancel --batch --signal=TERM JOB    (sbatch again goes on from the journal: the sweep has its name)
#
# Logins (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, AWS_ACCESS_KEY_ID, ..) are those of the shell that sbatch is typed in, which
# hands its environment on; or of a file of mode 600 that render's --setup reads: --setup 'set -a; . ~/.clsweep.env; set +a'.
#
#SBATCH --job-name=@@{name}
#SBATCH --output=@@{name}-%j.out
#SBATCH --open-mode=append
# On the first of them the driver runs beside its trials.
#SBATCH --nodes=@@{workers}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=@@{cpus}
#SBATCH --mem=@@{memory}G
@@{gpu}# A node for this job alone: Ray's ports are open on it, and the end of it (`ray stop`) ends all of your Ray processes there.
#SBATCH --exclusive
#SBATCH --time=@@{time}
# Three minutes before the time is up this shell hears USR1, ends the sweep in good order, and puts the job into the queue again.
#SBATCH --signal=B:USR1@180
# A job that loses a node is put into the queue again by Slurm.
#SBATCH --requeue

set -u
@@{setup}
home=@@{home}
retries=@@{retries}        # times that a cluster which broke is started again
requeues=50      # times that the job may be put into the queue again
mkdir -p "$home" || exit 1
export state="$home/.@@{name}-$SLURM_JOB_ID"
mkdir -p "$state"
trap 'rm -rf "$state"' EXIT

# Ray's ports run what they are sent: who has no token is turned away (docs/cluster.md). Drawn once, readable by you alone.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=@@{token_file}
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
    umask_before=$(umask)
    umask 077
    mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH"
    umask "$umask_before"
fi
chmod 600 "$RAY_AUTH_TOKEN_PATH" || exit 1

export RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300  # seconds that the nodes have to come up
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)  # this shell runs there too
port=$((20000 + SLURM_JOB_ID % 10000))

stopping=
step=
stop() {
    stopping=$1
    # The driver alone is told: a signal to the whole step would take Ray away from under it.
    if [ -s "$state/pid" ]; then kill -TERM "$(cat "$state/pid")"; elif [ -n "$step" ]; then kill -TERM "$step"; fi
}
trap 'stop USR1' USR1
trap 'stop TERM' TERM

# One Ray on all nodes and, on the first, the driver. launch.py starts a driver that is lost again.
run() {
    rm -f "$state/pid" "$state/code"
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --kill-on-bad-exit=1 --wait=60 @@{container}\
        ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus=@@{cpus} --num-gpus=@@{gpus} \
        --object-store-memory=209715200 -- \
        bash -c '"$@" & echo $! >"$state/pid"; wait $!; code=$?; echo $code >"$state/code"; exit $code' driver \
        python -m cluster.launch attach "$head:$port" --retries "$retries" -- \
        @@{words} &
    step=$!
    while kill -0 "$step" 2>/dev/null; do wait "$step"; done  # a signal interrupts `wait`
    code=$(cat "$state/code" 2>/dev/null || echo 99)          # 99: the cluster did not come up, or broke
}

for attempt in $(seq 0 "$retries"); do
    run
    if [ "$stopping" = USR1 ] && [ "$code" -ne 0 ] && [ "$code" -ne 1 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$requeues" ]; then
        echo "the time is up: into the queue again, where the sweep goes on"
        rm -rf "$state"
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    # The sweep's own word: done, failed trials, a wrong call, a full disk, stopped.
    case $code in 0 | 1 | 2 | 3 | 130 | 143) exit "$code" ;; esac
    [ -z "$stopping" ] || exit "$code"
    echo "the cluster was lost ($code), attempt $((attempt + 1)) of $((retries + 1))"
done
exit "$code"
