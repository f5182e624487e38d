#!/bin/sh
# status.sh JOB: print running, success or failed. In doubt running: Snakemake asks again, but believes the other two.
answer=$(LC_ALL=C squeue --noheader --states=all --format=%T --jobs="$1" 2>&1)
case $answer in
    COMPLETED) echo success ;;
    BOOT_FAIL | CANCELLED | DEADLINE | FAILED | NODE_FAIL | OUT_OF_MEMORY | TIMEOUT) echo failed ;;
    *"Invalid job id"*) echo failed ;;  # Slurm has forgotten it, minutes after its end: do it again
    *) echo running ;;  # waiting, running, or the controller does not answer now
esac
