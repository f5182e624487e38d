# conffusion: calibrated per-pixel confidence intervals for image restoration.
#   .venv/bin/snakemake all --cores 8 --resources gpu=2        (target first: list options take what follows as values)
#   .venv/bin/snakemake --cores 2 --configfile config/smoke.yaml


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/data.smk"
include: "rules/priors.smk"
include: "rules/sample.smk"
include: "rules/study.smk"
include: "rules/bounds.smk"
include: "rules/finetune.smk"
include: "rules/calibrate.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
include: "rules/publish.smk"


# On a cluster these run where Snakemake runs: they write or gather small files.
localrules:
    save_config,
    gather_validity,
    choose_settings,


# Everything: tables, figures and the report.
rule all:
    default_target: True
    input:
        rules.save_config.output,
        rules.tables.input,
        rules.figures.input,
        rules.write_report.output,
