"""From a folder of clean images to a calibrated model: a front for the workflow (`conffusion finetune`)."""
