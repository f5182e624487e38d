# Metrics on the test images, and how often the promise breaks when calibration sets are drawn again.


rule evaluate_method:
    input:
        calibration=rules.calibrate_method.output.calibration,
        calibration_bounds=bounds("calibration"),
        test_bounds=bounds("test"),
        calibration_images=images("calibration"),
        test_images=images("test"),
        splits=rules.split_images.output.splits,
    output:
        metrics=f"{ARM}/{{protocol}}/metrics.json",
        per_image=f"{ARM}/{{protocol}}/per_image.csv",
        curve=f"{ARM}/{{protocol}}/curve.csv",
        pool=f"{ARM}/{{protocol}}/pool.npz",
    log:
        f"{LOGS}/{{task}}/evaluate_method/{{arm}}-{{protocol}}.log",
    benchmark:
        f"{TIMES}/evaluate_method/{{task}}-{{arm}}-{{protocol}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        code=CODE["evaluate_method"],
    script:
        "../workflow_scripts/evaluate_method.py"


rule trace_candidates:
    input:
        candidates=rules.finetune_method.output.candidates,
        images=[images(split) for split in POOL],
        splits=rules.split_images.output.splits,
    output:
        curves=directory(f"{ARM}/candidate_curves"),
    log:
        f"{LOGS}/{{task}}/trace_candidates/{{arm}}.log",
    benchmark:
        f"{TIMES}/trace_candidates/{{task}}-{{arm}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: CONFIG.threads
    resources:
        mem_mb=3000,
        runtime=120,
        gpu=GPUS,
    params:
        settings=settings("trace_candidates"),
        code=CODE["trace_candidates"],
    script:
        "../workflow_scripts/trace_candidates.py"


rule assess_validity:
    input:
        calibrations=[f"{ARM}/{protocol}/calibration.json" for protocol in PROTOCOL_NAMES],
        pools=[f"{ARM}/{protocol}/pool.npz" for protocol in PROTOCOL_NAMES],
        candidates=branch(
            lambda wildcards: method_of(wildcards.arm).is_sampled,
            then=[],
            otherwise=rules.trace_candidates.output.curves,
        ),
    output:
        rows=f"{ARM}/validity.csv",
    log:
        f"{LOGS}/{{task}}/assess_validity/{{arm}}.log",
    benchmark:
        f"{TIMES}/assess_validity/{{task}}-{{arm}}.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        settings=settings("assess_validity"),
        code=CODE["assess_validity"],
    script:
        "../workflow_scripts/assess_validity.py"


rule gather_validity:
    input:
        rows=expand(rules.assess_validity.output.rows, task=PLAN.tasks, arm=PLAN.first_arms),
    output:
        table=f"{RUN}/tables/validity.csv",
    log:
        f"{LOGS}/gather_validity.log",
    benchmark:
        f"{TIMES}/gather_validity.tsv"
    conda:
        "../envs/conffusion.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=5,
    script:
        "../workflow_scripts/gather_validity.py"
