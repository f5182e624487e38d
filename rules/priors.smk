# Pretrained networks: `all` uses the shipped ones; `snakemake priors` trains them again; official files are converted.


rule import_prior:
    input:
        checkpoint=lambda wildcards: official_files(CONFIG, wildcards.prior),
    output:
        checkpoint=RUN.prior("{prior}"),
    log:
        f"{LOGS}/import_prior/{{prior}}.log",
    benchmark:
        f"{TIMES}/import_prior/{{prior}}.tsv"
    wildcard_constraints:
        prior="|".join(PLAN.imported_priors) or "none",
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(lambda wildcards: PLAN.prior_memory_mb("import_prior", wildcards.prior)),
        runtime=growing(30),
    params:
        settings=settings("import_prior"),
        code=CODE["import_prior"],
    script:
        "../workflow_scripts/import_prior.py"


rule train_prior:
    input:
        images=lambda wildcards: PLAN.training_images(wildcards.prior),
    output:
        checkpoint=RUN.prior("{prior}"),
    log:
        f"{LOGS}/train_prior/{{prior}}.log",
    benchmark:
        f"{TIMES}/train_prior/{{prior}}.tsv"
    wildcard_constraints:
        prior="|".join(PLAN.trained_priors) or "none",
    conda:
        "../envs/conffusion.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=growing(lambda wildcards: PLAN.prior_memory_mb("train_prior", wildcards.prior)),
        runtime=growing(24 * 60),
        gpu=GPUS,
    params:
        settings=settings("train_prior"),
        state=str(RUN.states / "priors" / "{prior}"),
        code=CODE["train_prior"],
    script:
        "../workflow_scripts/train_prior.py"


rule priors:
    input:
        expand(rules.train_prior.output.checkpoint, prior=PLAN.trained_priors),


# What the priors in use have learned: samples of them, on a contact sheet. Not part of `all`.
DIFFUSION_PRIORS = [name for name in PLAN.used_priors if CONFIG.priors[name].schedule]


rule sample_priors:
    input:
        checkpoints=[PLAN.prior_path(name) for name in DIFFUSION_PRIORS],
        images=[PLAN.images(task, "test") for task in PLAN.tasks],
    output:
        samples=RUN.prior_samples,
    log:
        f"{LOGS}/sample_priors.log",
    benchmark:
        f"{TIMES}/sample_priors.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=growing(3000),
        runtime=growing(60),
        gpu=GPUS,
    params:
        names=DIFFUSION_PRIORS,
        tasks=PLAN.tasks,
        settings=settings("sample_priors"),
        code=CODE["sample_priors"],
    script:
        "../workflow_scripts/sample_priors.py"


rule plot_priors:
    input:
        samples=rules.sample_priors.output.samples,
    output:
        beside(RUN.figure("priors"), "png", "pdf"),
    log:
        f"{LOGS}/plot_priors.log",
    benchmark:
        f"{TIMES}/plot_priors.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(1500),
        runtime=growing(15),
    params:
        code=CODE["plot_priors"],
    script:
        "../workflow_scripts/plot_priors.py"
