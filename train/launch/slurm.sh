#!/bin/bash
# {{title}}
# Submit it from the root of the checkout: sbatch FILE

#SBATCH --job-name={{name}}
#SBATCH --output=%x-%j.log
# After a requeue the job goes on in the same log.
#SBATCH --open-mode=append
#SBATCH --nodes={{nodes}}
# One task per node: the agent, which starts one worker per GPU.
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={{gpus}}
#SBATCH --cpus-per-task={{cpus}}
#SBATCH --time={{time}}
# Tells this script alone (B:), {{grace}} s before the time limit, and on preemption where the site
# has set PreemptParameters=send_user_signal.
#SBATCH --signal=B:USR1@{{grace}}
# Lets Slurm queue the job again when it is preempted or loses a node.
#SBATCH --requeue
{{directives}}

set -e # a setup that failed must not lead to training in the wrong environment
{{setup}}

# OMP_NUM_THREADS: the workers share the cores with the processes that read images; threads would
#   only get in their way.
# NCCL_DEBUG: names the rank, the peer and the call when communication breaks. Where the fast
#   network is not the first one, also render with --env NCCL_SOCKET_IFNAME=ib0
{{environment}}

training=(
    {{training}}
)
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a node must not share a port

# --cpus-per-task: srun does not take it over from sbatch.
# --kill-on-bad-exit=0: agents end with an error code when they are stopped, and not all at once;
#   --wait: but none waits for long for one that is lost.
# --max-restarts: of all workers together, after one has failed.
# --signals-to-handle: passed on to the workers; SIGUSR1 would end a stock agent, and them with it.
# --shutdown-timeout: what the workers have to save, before the agent kills them.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait={{grace}} \
    python -m train.launch.torchrun \
    --nnodes={{nodes}} --nproc-per-node={{gpus}} \
    --rdzv-backend=c10d --rdzv-endpoint="$first_node:$port" --rdzv-id="$SLURM_JOB_ID" \
    --max-restarts={{max_restarts}} \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout={{save_seconds}} \
    -m "${training[@]}" &
step=$!

# srun passes SIGUSR1 on; on SIGTERM it would kill its tasks at once. Only the first signal goes
# there: a second one cuts short the time that an agent gives its workers.
stopped_by=
on_signal() {
    interrupted=yes
    [ -z "$stopped_by" ] || return 0
    stopped_by=$1
    kill -USR1 "$step" || true
}
trap 'on_signal USR1' USR1
trap 'on_signal TERM' TERM

# A signal also ends `wait`, before the step has ended.
interrupted=yes
while [ "$interrupted" = yes ]; do
    interrupted=no
    code=0
    wait "$step" || code=$?
done

# SIGTERM comes here from scancel: that job shall stay away. A preempted job gets it too, and is
# queued again by Slurm.
if [ "$code" -eq {{stopped}} ] && [ "$stopped_by" != TERM ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt {{max_requeues}} ]; then
        echo "stopped with a checkpoint saved; queueing job $SLURM_JOB_ID again"
        scontrol requeue "$SLURM_JOB_ID"
    else
        echo "stopped with a checkpoint saved, after {{max_requeues}} requeues; submit it again" >&2
    fi
fi
exit "$code"
