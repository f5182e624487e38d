"""Runs of the workflow: their plan, what surrounds the work of a job, their state and their cost."""
