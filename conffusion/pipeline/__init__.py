"""What the Snakefile and the scripts of its rules share: plan, jobs, code digests, GPU locks."""
