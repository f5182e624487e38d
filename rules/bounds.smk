# Bounds before calibration: quantiles of the variants (DM_SB), or one forward pass of a fine-tuned network.

SAMPLED = [RUN.results("{task}", "dm_sb", protocol).bounds("{split}") for protocol in PROTOCOL_NAMES]


rule extract_bounds:
    input:
        shards=lambda wildcards: PLAN.shards(wildcards.task, wildcards.split),
    output:
        stores=[store(path) for path in SAMPLED],
        manifests=SAMPLED,
    log:
        f"{LOGS}/{{task}}/extract_bounds/{{split}}.log",
    benchmark:
        f"{TIMES}/extract_bounds/{{task}}-{{split}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=memory("extract_bounds"),
        runtime=growing(240),
    params:
        settings=settings("extract_bounds"),
        code=CODE["extract_bounds"],
    script:
        "../workflow_scripts/extract_bounds.py"


# One job predicts all splits under both protocols, so that torch is loaded once.
PREDICTED = [
    RUN.results(*METHOD_RUN, protocol).bounds(split) for protocol in PROTOCOL_NAMES for split in ("selection", *POOL)
]


rule predict_bounds:
    input:
        models=protocols(RESULTS.model),
        traced=[] if CONFIG.finetuning.keep_candidates else RUN.candidate_curves(*METHOD_RUN),  # before candidates are deleted
        images=images_of("selection", *POOL),
    output:
        stores=[store(path) for path in PREDICTED],
        manifests=PREDICTED,
    log:
        f"{LOGS}/{{task}}/predict_bounds/{{method_run}}.log",
    benchmark:
        f"{TIMES}/predict_bounds/{{task}}-{{method_run}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=memory("predict_bounds"),
        runtime=growing(60),
        gpu=GPUS,
    params:
        settings=settings("predict_bounds"),
        code=CODE["predict_bounds"],
    script:
        "../workflow_scripts/predict_bounds.py"


# DM_SB has its own rule; every other method predicts.
ruleorder: extract_bounds > predict_bounds
