# DM_SB: J variants of every image, in shards. The manifest of a shard is the declared file: it is written last, and a
# killed job leaves finished shards alone.


rule sample_variants:
    input:
        images=lambda wildcards: PLAN.images(wildcards.task, wildcards.split),
        prior=lambda wildcards: PLAN.prior_path(CONFIG.tasks[wildcards.task].prior),
    output:
        manifest=RUN.variants("{task}", "{split}", "{k}", "{n}"),
    log:
        f"{LOGS}/{{task}}/sample_variants/{{split}}-{{k}}-of-{{n}}.log",
    benchmark:
        f"{TIMES}/sample_variants/{{task}}-{{split}}-{{k}}-of-{{n}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=largest_memory("sample_variants"),
        runtime=growing(120),
        gpu=GPUS,
    params:
        settings=settings("sample_variants"),
        code=CODE["sample_variants"],
    script:
        "../workflow_scripts/sample_variants.py"


rule variants:
    input:
        rules.save_config.output,
        [PLAN.shards(task, split) for task in PLAN.tasks for split in SPLITS],
