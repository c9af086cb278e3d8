#!/bin/bash
# An experiment as a Slurm array: a task for each shard, and one that merges when all of them ended well.
#
#   sbatch --array=1-8 lab/examples/cluster/slurm.sh EXPERIMENT.toml RESULTS
#
# RESULTS is on a file system that all nodes share. Build the program first: cargo build --release -p lab.
# LAB names it, if it is not target/release/lab.
#SBATCH --job-name=lab
#SBATCH --cpus-per-task=1
#SBATCH --requeue
set -euo pipefail
experiment=$1 results=$2 lab=${LAB:-target/release/lab}

if [ -z "${LAB_MERGE:-}" ]; then
    shards=$SLURM_ARRAY_TASK_COUNT
    # The first task submits the merge, which waits for the whole array. A task that is requeued goes on.
    if [ "$SLURM_ARRAY_TASK_ID" = 1 ] && [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
        LAB_MERGE=1 sbatch --dependency="afterok:$SLURM_ARRAY_JOB_ID" --cpus-per-task=1 --export=ALL \
            "$0" "$experiment" "$results"
    fi
    exec "$lab" run "$experiment" --shard "$SLURM_ARRAY_TASK_ID/$shards" --out "$results" \
        --threads "${SLURM_CPUS_PER_TASK:-1}" --resume
fi
exec "$lab" merge "$results"/shard-*-of-* --out "$results/merged"
