#!/bin/sh
# submit.sh RULE THREADS MEMORY_MB MINUTES GPUS SCRIPT: send a job to the queue and print its number, nothing else.
set -eu
rule=$1 threads=$2 memory_mb=$3 minutes=$4 gpus=$5 script=$6
logs=.snakemake/cluster_logs
mkdir -p "$logs"

if [ "$gpus" -gt 0 ]; then
    where="--partition=gpu --gpus=$gpus"
else
    where="--partition=cpu"
fi
# $where unquoted: two words.
exec sbatch --parsable --requeue --job-name="$rule" --output="$logs/$rule-%j.log" \
    --cpus-per-task="$threads" --mem="$memory_mb" --time="$minutes" $where "$script"
