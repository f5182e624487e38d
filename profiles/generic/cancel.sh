#!/bin/sh
# cancel.sh JOB...: take jobs out of the queue, running or not.
exec scancel "$@"
