# The small pretrained networks. `all` uses the shipped ones; `snakemake priors` trains them again.


rule train_prior:
    output:
        checkpoint=f"{RUN}/priors/{{prior}}.safetensors",
    params:
        settings=lambda wildcards: PLAN.prior_settings(wildcards.prior),
        code=CODE["train_prior"],
    log:
        f"{LOGS}/train_prior/{{prior}}.log",
    benchmark:
        f"{TIMES}/train_prior/{{prior}}.tsv"
    threads: CONFIG.threads
    resources:
        mem_mb=4000,
        runtime=24 * 60,
        gpu=GPUS,
    script:
        "../workflow_scripts/train_prior.py"


rule priors:
    input:
        expand(rules.train_prior.output.checkpoint, prior=CONFIG.priors),
