"""Pretraining of priors and fine-tuning of one-pass predictors."""
