"""The work of the jobs: one function per rule, from the files that it reads to the files that it writes."""
