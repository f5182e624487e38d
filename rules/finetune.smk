# Fine-tuning: one run per method, task and replicate; its checkpoints compete under both protocols.
kept_candidates = (lambda folder: folder) if CONFIG.finetuning.keep_candidates else temp


rule finetune_method:
    input:
        prior=lambda wildcards: PLAN.prior_path(PLAN.prior_name(wildcards.task, wildcards.method_run)),
        splits=rules.split_images.output.splits,
        finetune=images("finetune"),
        selection=images("selection"),
        calibration=images("calibration"),
        sampled_bounds=sampled_bounds,
    output:
        paper=RUN.results(*METHOD_RUN, "paper").model,
        guaranteed=GUARANTEED.model,
        candidates=kept_candidates(directory(RUN.candidates(*METHOD_RUN))),
        curve=RUN.training_curve(*METHOD_RUN),
    log:
        f"{LOGS}/{{task}}/finetune_method/{{method_run}}.log",
    benchmark:
        f"{TIMES}/finetune_method/{{task}}-{{method_run}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: CONFIG.threads * CONFIG.finetuning.processes
    resources:
        mem_mb=memory("finetune_method"),
        runtime=growing(24 * 60),
        gpu=GPUS * CONFIG.finetuning.processes,
    params:
        settings=settings("finetune_method"),
        state=str(RUN.states / "{task}" / "{method_run}"),
        code=CODE["finetune_method"],
    script:
        "../workflow_scripts/finetune_method.py"


# The search over fine-tuning settings: `snakemake tune`. `all` does not repeat it; config.yaml holds its result.
TUNING = RUN.tuning


rule try_settings:
    input:
        prior=lambda wildcards: PLAN.prior_path(PLAN.prior_name(wildcards.task, wildcards.method_run)),
        splits=rules.split_images.output.splits,
        finetune=images("finetune"),
        selection=images("selection"),
        sampled_bounds=sampled_bounds,
    output:
        result=f"{TUNING}/{{task}}/{{method_run}}/trial-{{trial}}.json",
    log:
        f"{LOGS}/{{task}}/try_settings/{{method_run}}-{{trial}}.log",
    benchmark:
        f"{TIMES}/try_settings/{{task}}-{{method_run}}-{{trial}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=memory("finetune_method"),
        runtime=growing(24 * 60),
        gpu=GPUS,
    params:
        settings=settings("try_settings"),
        state=str(RUN.states / "tuning" / "{task}" / "{method_run}" / "trial-{trial}"),
        code=CODE["try_settings"],
    script:
        "../workflow_scripts/try_settings.py"


rule choose_settings:
    input:
        trials=expand(
            rules.try_settings.output.result,
            task=PLAN.tasks,
            method_run=[method_run for method_run in PLAN.first_method_runs if method_run in PLAN.trained_method_runs],
            trial=range(CONFIG.tuning.n_trials),
        ),
    output:
        table=f"{TUNING}/trials.csv",
        chosen=f"{TUNING}/tuned.yaml",
    log:
        f"{LOGS}/choose_settings.log",
    benchmark:
        f"{TIMES}/choose_settings.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=growing(500),
        runtime=growing(5),
    script:
        "../workflow_scripts/choose_settings.py"


rule tune:
    input:
        rules.choose_settings.output,
